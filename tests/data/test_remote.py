"""Data in object stores and on web servers: the same bytes as from files here, whatever breaks off on the way."""

import gc
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from phalanx.data.inputs import find_files
from phalanx.data.prepare import PrepareOptions, prepare
from phalanx.data.remote import RemotePath
from phalanx.errors import InputError, Resumable
from tests.data.stores import BUCKET, FILES, NOBODY, TEXT, Store, WithoutRanges
from tests.data.test_saved_datasets import save

OPTIONS = PrepareOptions(workers=1, document="line")
SET = f"s3://{BUCKET}/data/my"


@pytest.fixture
def web(store: Store) -> Iterator[str]:
    """The address of a web server of the same files that cannot send parts of them."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), WithoutRanges)
    server.store = store  # type: ignore[attr-defined]
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/{BUCKET}"
    server.shutdown()
    server.server_close()


def same_set(first: Path, second: Path) -> bool:
    return all(Path(f"{first}{s}").read_bytes() == Path(f"{second}{s}").read_bytes() for s in (".bin", ".idx"))


def test_a_folder_in_a_bucket_is_prepared_as_its_copy_here(store: Store, tmp_path: Path) -> None:
    here = prepare([str(tmp_path / "here" / "raw")], str(tmp_path / "one"), OPTIONS)
    there = prepare([f"s3://{BUCKET}/raw"], str(tmp_path / "two"), OPTIONS)
    assert same_set(tmp_path / "one", tmp_path / "two")
    assert [source.path for source in there.sources] == [f"s3://{BUCKET}/{name}" for name in FILES]
    assert all(source.version and not source.sha256 for source in there.sources)
    assert there.model_copy(update={"sources": here.sources, "written": here.written}) == here

    store.asked.clear()
    assert prepare([f"s3://{BUCKET}/raw"], str(tmp_path / "two"), OPTIONS) == there  # nothing is read again
    assert not [key for method, key, _ in store.asked if method == "GET" and key]

    store.objects["raw/b.jsonl"] = b'{"text": "three"}\n'
    with pytest.raises(InputError, match="exists and comes from other inputs"):
        prepare([f"s3://{BUCKET}/raw"], str(tmp_path / "two"), OPTIONS)


@pytest.mark.parametrize(
    ("url", "names"),
    [
        ("raw/*.jsonl", ["raw/b.jsonl"]),
        ("raw/**/*.txt.*", ["raw/deep/c.txt.gz", "raw/deep/d.txt.zst"]),
        ("raw/a.txt", ["raw/a.txt"]),
        ("raw/deep/", ["raw/deep/c.txt.gz", "raw/deep/d.txt.zst"]),
    ],
)
def test_files_folders_and_globs_of_a_bucket(store: Store, url: str, names: list[str]) -> None:
    assert [str(file) for file in find_files([f"s3://{BUCKET}/{url}"])] == [f"s3://{BUCKET}/{name}" for name in names]


def test_a_cut_connection_and_a_busy_server_are_asked_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("phalanx.data.block_reader.BLOCK", 50_000)
    prepare([str(tmp_path / "here" / "raw" / "a.txt")], str(tmp_path / "one"), OPTIONS)
    store.cut["raw/a.txt"] = [20_000, 7]
    store.refused["raw/deep/c.txt.gz"] = [503]
    prepare([f"s3://{BUCKET}/raw/a.txt"], str(tmp_path / "two"), OPTIONS)
    assert same_set(tmp_path / "one", tmp_path / "two")
    told = capsys.readouterr().err
    assert told.count(f"s3://{BUCKET}/raw/a.txt: Response payload is not completed") == 2
    assert "trying again in 0 s" in told
    assert RemotePath(f"s3://{BUCKET}/raw/deep/c.txt.gz").read_bytes() == FILES["raw/deep/c.txt.gz"]


def test_a_preparation_that_lost_its_store_goes_on(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phalanx.data.prepare.COMMIT_SECONDS", 0.0)
    monkeypatch.setattr("phalanx.data.chunks.CHUNK", 20_000)
    monkeypatch.setattr("phalanx.data.block_reader.BLOCK", 50_000)
    monkeypatch.setattr("phalanx.data.block_reader.AHEAD", 1)
    inputs, out = [f"s3://{BUCKET}/raw/a.txt"], str(tmp_path / "set")
    store.cut["raw/a.txt"] = [50_000, 0, 0, 0]
    with pytest.raises(Resumable, match=r"a.txt cannot be read or written, 3 times .* tokens of .* are saved"):
        prepare(inputs, out, OPTIONS)
    assert not Path(f"{out}.manifest.json").exists()

    gc.collect()  # what the error held: the lock of the first
    prepare(inputs, out, OPTIONS)
    prepare([str(tmp_path / "here" / "raw" / "a.txt")], str(tmp_path / "one"), OPTIONS)
    assert same_set(tmp_path / "one", Path(out))
    assert not Path(f"{out}.partial.json").exists()


def test_an_object_replaced_while_it_is_read_is_noticed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = RemotePath.read_range

    def replaced(self: RemotePath, start: int, stop: int) -> bytes:
        content = read(self, start, stop)
        store.objects["raw/a.txt"] = TEXT[::-1]
        return content

    monkeypatch.setattr(RemotePath, "read_range", replaced)
    with pytest.raises(InputError, match=r"a\.txt was written to while it was read"):
        prepare([f"s3://{BUCKET}/raw/a.txt"], str(tmp_path / "set"), OPTIONS)


def test_web_servers_with_and_without_parts_of_files(store: Store, web: str, tmp_path: Path) -> None:
    """A signed URL is read with its signature, which is kept nowhere."""
    prepare([str(tmp_path / "here" / "raw" / "a.txt")], str(tmp_path / "one"), OPTIONS)
    for number, address in enumerate((f"{store.address}/{BUCKET}", web)):
        store.cut["raw/a.txt"] = [] if number else [9]
        out = tmp_path / f"web{number}"
        manifest = prepare([f"{address}/raw/a.txt?signature=secret"], str(out), OPTIONS)
        assert same_set(tmp_path / "one", out)
        assert manifest.sources[0].path == f"{address}/raw/a.txt"
        assert bool(manifest.sources[0].sha256) == (address == web)  # it tells no version
        assert "secret" not in Path(f"{out}.manifest.json").read_text()


def test_a_data_set_saved_in_a_bucket(store: Store, tmp_path: Path) -> None:
    save(tmp_path / "saved" / "test", ["one text", "another"], "test")
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["test"]}')
    for file in (file for file in (tmp_path / "saved").rglob("*") if file.is_file()):
        store.objects[str(file.relative_to(tmp_path))] = file.read_bytes()
    options = replace(OPTIONS, split="test")
    prepare([str(tmp_path / "saved")], str(tmp_path / "one"), options)
    assert prepare([f"s3://{BUCKET}/saved"], str(tmp_path / "two"), options).documents == 2
    assert same_set(tmp_path / "one", tmp_path / "two")


def test_the_pages_of_a_web_server_name_its_files(store: Store, tmp_path: Path) -> None:
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "here"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert [str(file) for file in find_files([f"{address}/raw/"])] == [f"{address}/{name}" for name in FILES]
        assert [str(file) for file in find_files([f"{address}/raw/*.txt"])] == [f"{address}/raw/a.txt"]
        with pytest.raises(InputError, match=r"'.*/none/' holds no \.txt"):
            find_files([f"{address}/none/"])
        server.shutdown()


def test_what_has_to_be_installed_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(InputError, match=r"needs the package fsspec: pip install phalanx\[remote\] s3fs"):
        find_files([f"s3://{BUCKET}/raw"])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (f"s3://{BUCKET}/none/*.txt", "is no file, folder or glob that matches anything"),
        ("s3://elsewhere/a.txt", "is no file, folder or glob that matches anything"),
        ("gs://books/a.txt", "gs:// needs the package gcsfs: pip install gcsfs"),
        ("file:///books/a.txt", "file:///books/a.txt is a path of this machine; leave out file://"),
        ("odd://books/a.txt", "odd:// is no scheme that fsspec knows; give s3://, gs:// or https://"),
        ("http://127.0.0.1:1/a.txt", "a.txt cannot be read or written, 3 times"),
        (f"s3://{BUCKET}/raw/a.png", "is no file, folder or glob"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line(store: Store, name: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        find_files([name])
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_a_stranger_is_told_about_credentials(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", NOBODY)
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(InputError, match=r"raw may not be read or written \(.*\); check the credentials for s3://"):
        find_files([f"s3://{BUCKET}/raw"])
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_tokenizer_is_learned_from_a_bucket(store: Store, tmp_path: Path) -> None:
    from phalanx.data.vocabulary import train_tokenizer

    names = [f"s3://{BUCKET}/raw/a.txt"], [str(tmp_path / "here" / "raw" / "a.txt")]
    first, second = (train_tokenizer(name, "bpe", 400, str(tmp_path / f"{i}.json")) for i, name in enumerate(names))
    assert first.json() == second.json()


def test_parquet_and_arrow_are_read_from_any_place(store: Store, tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.table({"text": [f"row {number}" for number in range(500)]})
    parquet.write_table(table, tmp_path / "t.parquet", row_group_size=100)
    with pa.OSFile(str(tmp_path / "t.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=50)
    for name in ("t.parquet", "t.arrow"):
        store.objects[name] = (tmp_path / name).read_bytes()
        prepare([str(tmp_path / name)], str(tmp_path / "one"), replace(OPTIONS, force=True))
        prepare([f"s3://{BUCKET}/{name}"], str(tmp_path / "two"), replace(OPTIONS, force=True))
        assert same_set(tmp_path / "one", tmp_path / "two")
