"""Prepared sets in an object store: written whole or not at all, read as sets here are, trained on bit for bit."""

import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from phalanx.data import piece_cache
from phalanx.data.indexed import IndexedDataset
from phalanx.data.manifest import Manifest
from phalanx.data.prepare import PrepareOptions, prepare, saved
from phalanx.data.remote import RemotePath
from phalanx.data.verify import fingerprint, open_set
from phalanx.errors import InputError, Resumable
from phalanx.tasks.run import train
from tests.data.stores import BUCKET, FILES, Store
from tests.train.runs import curve

OPTIONS = PrepareOptions(workers=1, document="line")
SET = f"s3://{BUCKET}/data/my"


@pytest.fixture
def sets(store: Store, tmp_path: Path) -> tuple[Path, str]:
    """A set here, and the same in the bucket."""
    source = [str(tmp_path / "here" / "raw" / "a.txt")]
    prepare(source, str(tmp_path / "one"), OPTIONS)
    prepare(source, SET, OPTIONS)
    return tmp_path / "one", SET


def test_a_set_is_written_to_a_bucket(store: Store, sets: tuple[Path, str], tmp_path: Path) -> None:
    """All that lies there is the set; the manifest came last, and nothing of it is left here."""
    here = sets[0]
    assert store.under("data/my") == {".bin", ".idx", ".manifest.json", ".tokenizer.json"}
    for suffix in (".bin", ".idx", ".tokenizer.json"):
        assert store.objects[f"data/my{suffix}"] == Path(f"{here}{suffix}").read_bytes()
    puts = [key for method, key, _ in store.asked if method == "PUT"]
    assert puts == [f"data/my.{name}" for name in ("partial.json", "tokenizer.json", "bin", "idx", "manifest.json")]
    assert not [path for path in (tmp_path / "cache" / "staging").rglob("*") if path.is_file()]

    ours, theirs = Manifest.read(here), Manifest.read(SET)
    assert theirs.model_copy(update={"written": ours.written}) == ours
    again = prepare([str(tmp_path / "here" / "raw" / "a.txt")], SET, OPTIONS)
    assert again == theirs
    with pytest.raises(InputError, match=r"my\.manifest\.json exists and comes from other inputs or options"):
        prepare([str(tmp_path / "here" / "raw" / "b.jsonl")], SET, OPTIONS)
    assert prepare([str(tmp_path / "here" / "raw" / "b.jsonl")], SET, replace(OPTIONS, force=True)).documents == 2
    assert Manifest.read(SET).documents == 2 and open_set(SET, sums=True)


def test_a_set_that_was_not_sent_whole_is_sent_on(store: Store, tmp_path: Path) -> None:
    """It has no manifest meanwhile; what was sent is not sent again, and the text is not read again."""
    source = [str(tmp_path / "here" / "raw" / "a.txt")]
    store.refused["PUT data/my.idx"] = [503] * 9
    with pytest.raises(Resumable, match=r"my\.idx cannot be read or written, 3 times"):
        prepare(source, SET, OPTIONS)
    assert store.under("data/my") == {".bin", ".tokenizer.json", ".partial.json"}

    store.refused.clear()
    store.asked.clear()
    prepare(source, SET, OPTIONS)
    puts = [key for method, key, _ in store.asked if method == "PUT"]
    assert puts == [f"data/my.{name}" for name in ("partial.json", "idx", "manifest.json")]
    prepare(source, str(tmp_path / "one"), OPTIONS)
    assert all(store.objects[f"data/my.{s}"] == Path(f"{tmp_path}/one.{s}").read_bytes() for s in ("bin", "idx"))


def test_a_set_that_another_machine_prepares(store: Store, tmp_path: Path) -> None:
    store.objects["data/my.partial.json"] = b'{"machine": "other", "staging": "/x/my"}'
    source = [str(tmp_path / "here" / "raw" / "a.txt")]
    with pytest.raises(InputError, match="says that /x/my on other is to become this set; go on there"):
        prepare(source, SET, OPTIONS)
    assert prepare(source, SET, replace(OPTIONS, force=True)).documents == 3000


def test_a_set_beside_its_text_is_none_of_its_inputs(store: Store, tmp_path: Path) -> None:
    """Nor is the mark of one that is being prepared."""
    out = f"s3://{BUCKET}/raw/my"
    store.refused["PUT raw/my.bin"] = [503] * 9
    with pytest.raises(Resumable):
        prepare([f"s3://{BUCKET}/raw"], out, OPTIONS)
    store.refused.clear()
    told = saved(out)
    manifest = prepare([f"s3://{BUCKET}/raw"], out, OPTIONS)
    assert [source.path for source in manifest.sources] == [f"s3://{BUCKET}/{name}" for name in FILES]
    assert told == f"{out} is whole on this machine and is yet to be sent"
    assert prepare([f"s3://{BUCKET}/raw"], out, OPTIONS) == manifest


def test_two_commands_do_not_send_one_set(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, upload = [str(tmp_path / "here" / "raw" / "b.jsonl")], RemotePath.upload

    def meanwhile(self: RemotePath, *arguments: Any) -> None:
        monkeypatch.setattr(RemotePath, "upload", upload)
        with pytest.raises(InputError, match="is being sent by another process"):
            prepare(source, SET, OPTIONS)
        upload(self, *arguments)

    monkeypatch.setattr(RemotePath, "upload", meanwhile)
    assert prepare(source, SET, OPTIONS) == Manifest.read(SET)
    assert RemotePath.upload is upload, "the other command came"


def test_nothing_is_left_of_a_set_without_documents(store: Store, tmp_path: Path) -> None:
    (tmp_path / "blank.txt").write_text("\n\n")
    with pytest.raises(InputError, match="no documents in"):
        prepare([str(tmp_path / "blank.txt")], SET, OPTIONS)
    assert store.under("data/") == set()
    with pytest.raises(InputError, match="a set is not written to a web server"):
        prepare([str(tmp_path / "blank.txt")], f"{store.address}/{BUCKET}/my", OPTIONS)


def test_a_set_in_a_bucket_has_the_tokens_of_that_here(store: Store, sets: tuple[Path, str]) -> None:
    here, there = IndexedDataset(sets[0]), open_set(sets[1])
    assert np.array_equal(there.lengths, here.lengths) and np.array_equal(there.documents, here.documents)
    for first, last in ((0, 7), (100, 101), (len(here.tokens) - 5, len(here.tokens) + 5), (9, 9)):
        assert np.array_equal(there.read(first, last, 50_257), here.read(first, last, 50_257))
    assert there.tokens[-1] == here.tokens[-1] and np.array_equal(there[3], here[3])

    ranges = [asked for _, key, asked in store.asked if key == "data/my.bin" and asked]
    assert "bytes=0-13" in ranges  # a sample's own bytes
    web = open_set(f"{store.address}/{BUCKET}/data/my", sums=True)  # what a store gives over the web too
    assert np.array_equal(web[3], here[3])

    indexes = [1 for method, key, _ in store.asked if method == "GET" and key == "data/my.idx"]
    open_set(sets[1])
    assert [1 for method, key, _ in store.asked if method == "GET" and key == "data/my.idx"] == indexes


def test_a_set_that_is_read_a_lot_is_fetched_once(
    store: Store, sets: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one of all who read it, in the background; it is checked as it comes, and used the next time."""
    monkeypatch.setattr("phalanx.data.remote_tokens.READS", 3)
    here, there = IndexedDataset(sets[0]), open_set(sets[1])
    others = [open_set(sets[1]) for _ in range(3)]
    for dataset in (there, *others):
        for i in range(5):
            assert np.array_equal(dataset[i], here[i])
    for thread in [thread for thread in threading.enumerate() if thread.name == "fill"]:
        thread.join()

    store.asked.clear()
    for dataset in (there, *others, open_set(sets[1])):
        assert np.array_equal(dataset.tokens[:], here.tokens)
    assert not [1 for method, key, _ in store.asked if method == "GET" and key == "data/my.bin"]


def test_a_piece_that_is_not_as_written_ends_the_reading(
    store: Store, sets: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phalanx.data.remote_tokens.READS", 1)
    dataset = open_set(SET)
    content = store.objects["data/my.bin"]
    store.objects["data/my.bin"] = content[:-1] + bytes([content[-1] ^ 1])
    dataset.read(0, 5, 50_257)
    for thread in [thread for thread in threading.enumerate() if thread.name == "fill"]:
        thread.join()
    with pytest.raises(InputError, match=r"my\.bin is not as it was written: bytes 0 to .* copy it there again"):
        dataset.read(0, 5, 50_257)
    with pytest.raises(InputError, match=r"my\.bin is not as it was written: bytes 0 to .*documents 0 to 2,999"):
        open_set(SET)  # its version is not the manifest's, so its checksums are compared


def test_the_cache_is_bounded(store: Store, sets: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHALANX_CACHE_GIB", "1e-7")
    dataset = open_set(SET)
    assert dataset.tokens._cache is None
    assert np.array_equal(dataset[5], IndexedDataset(sets[0])[5])
    monkeypatch.setenv("PHALANX_CACHE_GIB", "much")
    with pytest.raises(InputError, match="PHALANX_CACHE_GIB=much is no number"):
        open_set(SET)


def test_room_is_made_by_what_was_used_longest_ago(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [RemotePath(f"s3://{BUCKET}/{name}.bin") for name in "abc"]
    for path in paths:
        store.objects[path.url.removeprefix(f"s3://{BUCKET}/")] = bytes(100_000)
        copy = piece_cache.local_copy(path)
        os.utime(copy.parent, (1000 + len(path.url), 1000 + ord(path.name[0])))
    monkeypatch.setenv("PHALANX_CACHE_GIB", str(320_000 / 2**30))
    assert piece_cache.has_room(RemotePath(f"s3://{BUCKET}/d.bin"), 150_000)
    left = {file.name.rpartition("-")[2] for file in (tmp_path / "cache" / "remote").rglob("*.bin")}
    assert left == {"c.bin"}


def test_verify_and_show(store: Store, sets: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    from phalanx.data.verify import verify
    from phalanx.tasks.show import show

    told = verify(SET, Console(stderr=True))
    assert told.startswith(f"{SET}: all bytes have the manifest's checksums; 3,000 sequences of 3,000 documents")
    assert show(SET, 3, "clm", 16, []) == show(str(sets[0]), 3, "clm", 16, [])
    store.objects["data/my.tokenizer.json"] = b"{}"
    with pytest.raises(InputError, match=r"my\.tokenizer\.json is not the tokenizer that made the set"):
        verify(SET, Console(stderr=True))
    del store.objects["data/my.idx"]
    with pytest.raises(InputError, match=rf"my\.idx is missing; make the set with: .* --out {SET}"):
        open_set(SET)


def test_a_set_of_megatrons_own(store: Store, sets: tuple[Path, str]) -> None:
    """It has no manifest, so its pieces are not known."""
    del store.objects["data/my.manifest.json"]
    assert np.array_equal(open_set(SET)[5], IndexedDataset(sets[0])[5])
    assert fingerprint(SET).split()[0] == str(len(IndexedDataset(sets[0]).tokens))


@pytest.mark.slow
def test_a_run_on_a_bucket_is_that_on_files_bit_for_bit(
    store: Store, sets: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses, held-out losses and weights; with a connection that breaks off, resumed, and out of the cache."""
    words = [
        "model.layers=1", "model.hidden=16", "model.heads=2", "model.positions=16", "data.sequence=16", "train.steps=4",
        "train.batch=8", "train.eval_every=2", "train.eval_sequences=4", "train.compile=off", "save.every=2",
        "data.split=0.9,0.1,0", "train.device=cpu",
    ]  # fmt: skip
    train("gpt-tiny", [*words, f"data.train={sets[0]}"], tmp_path / "run", quiet=True)

    monkeypatch.setattr("phalanx.data.remote_tokens.READS", 20)
    store.asked.clear()
    store.cut["data/my.bin"] = [5, 5]
    train("gpt-tiny", [*words, f"data.train={SET}"], tmp_path / "there", quiet=True)
    assert len([1 for method, key, asked in store.asked if method == "GET" and key == "data/my.bin"]) >= 20
    assert not store.cut["data/my.bin"]
    assert curve(tmp_path / "there") == curve(tmp_path / "run")
    assert weights(tmp_path / "there") == weights(tmp_path / "run")

    shutil.rmtree(tmp_path / "there" / "checkpoints" / "step-0000004")
    train(str(tmp_path / "there"), quiet=True)
    assert curve(tmp_path / "there") == curve(tmp_path / "run")
    assert weights(tmp_path / "there") == weights(tmp_path / "run")

    prepare([str(tmp_path / "here" / "raw" / "b.jsonl")], SET, replace(OPTIONS, force=True))
    with pytest.raises(InputError, match=r"my has changed since .* began"):
        train(str(tmp_path / "there"), quiet=True)


def weights(run: Path) -> dict[str, bytes]:
    """The files of tensors of a run's last checkpoint."""
    return {file.name: file.read_bytes() for file in (run / "checkpoints" / "step-0000004").glob("*.safetensors")}
