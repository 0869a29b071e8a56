"""Documents out of every kind of file, in pieces, with faults counted, and from any point on."""

import gzip
import json
import lzma
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import ANY

import pytest
import zstandard

from phalanx.data import documents
from phalanx.data.documents import Bookmark, DocumentReader, Reading, Record
from phalanx.data.inputs import find_files
from phalanx.data.streams import known_encoding
from phalanx.data.tokenize import load_tokenizer
from phalanx.errors import InputError

PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}
BEGINNING = Bookmark()


def records(path: Path, document: str = "file", piece: int = 1 << 20, start: Bookmark = BEGINNING) -> list[Record]:
    return list(DocumentReader(path, Reading(document, "text", piece, by_paragraph=False)).records(start))


def whole(found: list[Record]) -> list[str]:
    """Documents put together from their pieces."""
    result, held = [], ""
    for record in found:
        held += record.text
        if record.ends and not record.fault and not record.blank:
            result.append(held)
            held = ""
    assert not held
    return result


def saved(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("file", ["a b\n\nc é\nd\n \n\ne"]),
        ("line", ["a b", "c é", "d", "e"]),
        ("blank-line", ["a b", "c é\nd", "e"]),
    ],
)
def test_plain_text_with_mark_and_dos_lines(tmp_path: Path, suffix: str, document: str, expected: list[str]) -> None:
    text = "a b\n\nc é\nd\n \n\ne"
    for name, data in (("unix", text.encode()), ("dos", b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())):
        path = saved(tmp_path / f"{name}.txt{suffix}", PACK[suffix](data))
        assert whole(records(path, document)) == expected


@pytest.mark.parametrize("suffix", PACK)
def test_jsonl(tmp_path: Path, suffix: str) -> None:
    lines = [
        b'\xef\xbb\xbf{"text": "one\\r\\n\\u00e9"}\r\n',
        b"\n",
        b'{"text": ""}\n',
        b'{"id": 4}\n',
        b'{"text": 5}\n',
        b'{"text": "cut\n',
        b'{"text": "\xff"}\n',
        b'{"text": "\\ud800"}\n',
        b"[" * 100_000 + b"\n",
        b'["text"]\n',
        b'{"text": "x", "score": NaN}\n',
        b'{"text": "x", "score": [-Infinity]}\n',
        b'{"text": "two"}',
    ]
    found = records(saved(tmp_path / f"a.jsonl{suffix}", PACK[suffix](b"".join(lines))))
    assert whole(found) == ["one\r\né", "two"]
    faults = [record.fault for record in found if record.fault]
    assert [int(fault.split(":")[0].removeprefix("line ")) for fault in faults] == [4, 5, 6, 7, 8, 9, 10, 11, 12]
    assert [record.blank for record in found] == [False, True] + [False] * 10  # line 3; a blank line is no record
    assert "no text under the key 'text'" in faults[0]
    assert "not JSON" in faults[2]
    assert "not UTF-8" in faults[3]
    assert faults[-2:] == ["line 11: NaN is not a number of JSON", "line 12: -Infinity is not a number of JSON"]


@pytest.mark.parametrize("suffix", PACK)
def test_parquet(tmp_path: Path, suffix: str) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    texts = [f"row {i}" if i % 7 else None for i in range(1000)]
    parquet.write_table(pyarrow.table({"text": texts, "n": list(range(1000))}), tmp_path / "plain", row_group_size=300)
    path = saved(tmp_path / f"a.parquet{suffix}", PACK[suffix]((tmp_path / "plain").read_bytes()))
    found = records(path)
    assert whole(found) == [text for text in texts if text]
    assert found[0].fault == "row 1: no text"
    assert records(path, start=Bookmark(650)) == found[650:]
    for key, message in (("body", "no column 'body'; it has text, n"), ("n", "int64, not text")):
        with pytest.raises(InputError, match=message):
            list(DocumentReader(path, Reading("file", key, 100, by_paragraph=False)).records(Bookmark()))
    with pytest.raises(InputError, match="no whole Parquet file"):
        records(saved(tmp_path / f"b.parquet{suffix}", PACK[suffix](b"PAR1 and no more")))


def test_parquet_columns_that_are_no_text(tmp_path: Path) -> None:
    """Lists and structs of texts are none; a text that is not UTF-8 is a fault, and dictionaries of texts are read."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    broken = pyarrow.array([b"one", b"\xff", b"two"]).view(pyarrow.string())
    columns = {
        "text": broken,
        "large": broken.cast(pyarrow.large_string()),
        "list": [["a"], ["b"], []],
        "struct": [{"string": "a"}] * 3,
        "coded": pyarrow.array(["one", None, "two"]).dictionary_encode(),
    }
    parquet.write_table(pyarrow.table(columns), path)
    for key, fault in (("text", "row 2: not UTF-8"), ("large", "row 2: not UTF-8"), ("coded", "row 2: no text")):
        found = list(DocumentReader(path, Reading("file", key, 100, by_paragraph=False)).records(Bookmark()))
        assert whole(found) == ["one", "two"]
        assert [record.fault for record in found] == ["", fault, ""]
    twice = pyarrow.Table.from_arrays([broken, broken, broken], ["text", "id", "id"])
    parquet.write_table(twice, path_twice := tmp_path / "b.parquet")
    assert len(records(path_twice)) == 3
    with pytest.raises(InputError, match=r"b\.parquet has 2 columns 'id'; rename"):
        list(DocumentReader(path_twice, Reading("file", "id", 100, by_paragraph=False)).records(Bookmark()))
    for key in ("list", "struct"):
        with pytest.raises(InputError, match=rf"column '{key}' of .*a\.parquet holds {key}"):
            list(DocumentReader(path, Reading("file", key, 100, by_paragraph=False)).records(Bookmark()))


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"pip install phalanx\[data\]"):
        records(saved(tmp_path / "a.parquet", b""))


@pytest.mark.parametrize("size", [1000, documents.HEAD + 1000])
def test_broken_utf8_spoils_its_document_only(tmp_path: Path, size: int) -> None:
    text = b"word " * (size // 5)
    broken = saved(tmp_path / "a.txt", b"one\n\n" + text + b"\xff\n" + text)
    assert [r.fault for r in records(broken)] == ["line 3: not UTF-8 text"]
    found = records(broken, "line")
    assert whole(found) == ["one", text.decode()]
    assert [r.fault for r in found if r.fault] == ["line 3: not UTF-8 text"]
    spared = [*DocumentReader(broken, Reading("file", "text", 1 << 24, False, spare_lines=True)).records(Bookmark())]
    assert whole(spared) == ["one\n\n" + text.decode()]
    assert [r.fault for r in spared if r.fault] == ["line 3: not UTF-8 text"]
    assert all(r.undecodable == bool(r.fault) for r in [*records(broken), *found, *spared])


def test_lines_that_are_spared_are_the_file_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line too long is told like one that cannot be decoded; a mark is one at the beginning of the file alone."""
    monkeypatch.setattr(documents, "LIMIT", 100)
    mark = "\ufeff"
    path = saved(tmp_path / "a.txt", f"{mark}one\n{mark}two\n{'x' * 1000}\n".encode() + b"\xff\nthree")
    spared = [*DocumentReader(path, Reading("file", "text", 1 << 24, False, spare_lines=True)).records(Bookmark())]
    assert whole(spared) == [f"one\n{mark}two\nthree"]
    faults = [(r.fault, r.undecodable) for r in spared if r.fault]
    assert faults == [("line 3: longer than 0 MiB", False), ("line 4: not UTF-8 text", True)]


@pytest.mark.parametrize("suffix", ["", ".zst"])
@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-16-be", "gb18030"])
@pytest.mark.parametrize("document", ["file", "line", "blank-line"])
def test_text_in_another_encoding_is_the_same_text(tmp_path: Path, encoding: str, document: str, suffix: str) -> None:
    """And reading goes on from every point of it."""
    text = "".join(f"Größe {i} à la carte\r\n{chr(10) * (i % 3 == 0)}" for i in range(200))
    path = saved(tmp_path / f"a.txt{suffix}", PACK[suffix](text.encode(encoding)))
    twin = saved(tmp_path / "b.txt", text.encode())
    reading = Reading(document, "text", 300, by_paragraph=False, encoding=encoding)
    found = [*DocumentReader(path, reading).records(Bookmark())]
    assert found == records(twin, document, 300)
    for i in (1, len(found) // 2, len(found)):
        assert found[i - 1].next
        assert [*DocumentReader(path, reading).records(found[i - 1].next)] == found[i:]


def test_bytes_that_an_encoding_does_not_have_are_faults_of_their_line(tmp_path: Path) -> None:
    for encoding, bad in (("cp1252", b"\x81"), ("gb18030", b"\xff"), ("utf-16-le", b"\x00\xdc")):
        path = saved(tmp_path / "a.txt", "one\ntwo ".encode(encoding) + bad + "\nthree".encode(encoding))
        found = [*DocumentReader(path, Reading("line", "text", 100, False, encoding)).records(Bookmark())]
        assert whole(found) == ["one", "three"]
        assert [r.fault for r in found if r.fault] == [f"line 2: not {encoding.upper()} text"]
    with pytest.raises(InputError, match="--encoding klingon is not known"):
        known_encoding("klingon")
    for name in ("hex", "idna", "punycode"):  # the last two take no handler of errors
        with pytest.raises(InputError, match=f"--encoding {name} is not known"):
            known_encoding(name)
    assert known_encoding("Latin-1") == known_encoding("iso8859_1")


@pytest.mark.parametrize("blank", [" \n\t\n", "\u3000\n\u00a0\u2028", " \n" * 600])
def test_blanks_alone_are_no_document(tmp_path: Path, blank: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In whatever they lie, more of them than are held at once too; text that begins with many blanks is one."""
    monkeypatch.setattr(documents, "HEAD", 1000)
    path = saved(tmp_path / "a.txt", blank.encode())
    assert records(path) == [Record("", blank=True)]
    blanks = [line for line in blank.split("\n") if line]
    assert records(path, "line") == [Record("", next=ANY, blank=True)] * len(blanks)
    assert records(path, "blank-line") == [Record("", next=ANY, blank=True)] * ("\u3000" in blank)
    line = saved(tmp_path / "a.jsonl", json.dumps({"text": blank}).encode())
    assert [record.blank for record in records(line)] == [True]
    assert whole(records(saved(path, blank.encode() + b"end"))) == [f"{blank}end"]
    assert records(saved(path, b"")) == []


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_damaged_packing_is_named(tmp_path: Path, suffix: str) -> None:
    packed = PACK[suffix](b"".join(b"line %d\n" % i for i in range(50_000)))
    for data in (packed[: len(packed) // 2], b"not packed at all"):
        with pytest.raises(InputError, match="is damaged"):
            records(saved(tmp_path / f"a.txt{suffix}", data), "line")


def zstandard_frame(window_log: int, content: bytes) -> bytes:
    """A frame that asks for a window of 2^window_log bytes, with its content unpacked."""
    head = b"\x28\xb5\x2f\xfd\x00" + bytes([(window_log - 10) << 3])
    return head + (1 | len(content) << 3).to_bytes(3, "little") + content


def test_windows_of_zstandard(tmp_path: Path) -> None:
    """zstd --long=31 makes windows of 2 GiB; the library alone stops at 128 MiB."""
    for window_log in (27, 28, 31):
        path = saved(tmp_path / "a.txt.zst", zstandard_frame(window_log, b"text") * 2)
        assert whole(records(path)) == ["texttext"]
    with pytest.raises(InputError, match=r"a\.txt\.zst needs a zstandard window of more than 2 GiB; pack it anew"):
        records(saved(path, zstandard_frame(32, b"text")))


LONG = "".join(f"Word{i} — 日本 \u00a0 {'  ' * (i % 3)}x{i}\r\n{' ' if i % 5 else chr(10)}" for i in range(3000))


@pytest.mark.parametrize("name", ["gpt2", "bert-cased"])
@pytest.mark.parametrize("piece", [64, 1000])
def test_pieces_do_not_change_the_ids(tmp_path: Path, name: str, piece: int) -> None:
    tokenizer = load_tokenizer(name)
    text = LONG[:30_000]
    found = records(saved(tmp_path / "a.txt", text.encode()), piece=piece)
    assert len(found) > 20_000 // piece
    assert whole(found) == [text.replace("\r\n", "\n")]
    ids = [i for record in found for i in tokenizer.encode(record.text)]
    assert ids == tokenizer.encode(text.replace("\r\n", "\n"))
    line = saved(tmp_path / "a.jsonl", json.dumps({"text": text}).encode())
    assert [i for record in records(line, piece=piece) for i in tokenizer.encode(record.text)] == tokenizer.encode(text)


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("document", ["file", "line", "blank-line", "jsonl"])
def test_reading_goes_on_from_every_point(tmp_path: Path, suffix: str, document: str) -> None:
    data = b"\xef\xbb\xbf" + LONG[:20_000].encode() + b'\xff\n{"text": "a"}\n' * (document != "file")
    name = "a.jsonl" if document == "jsonl" else "a.txt"
    path = saved(tmp_path / f"{name}{suffix}", PACK[suffix](data))
    found = records(path, document, piece=500)
    assert len(found) > 20
    for i, record in [*list(enumerate(found, 1))[::17], (len(found), found[-1])]:
        assert record.next is not None
        assert records(path, document, 500, record.next) == found[i:]


def test_a_line_too_long_is_a_fault_and_the_next_one_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "LIMIT", 100)
    path = saved(tmp_path / "a.txt", b"a\n" + b"x" * 1000 + b"\nb\n\n" + b"y\n" * 90 + b"\nc")
    found = records(path, "line")
    assert (found[1].fault, found[1].next) == ("line 2: longer than 0 MiB", Bookmark(1003, 2))
    assert whole(found)[:2] == ["a", "b"]
    assert [r.text or r.fault.split(":")[0] for r in records(path, "blank-line")] == ["line 1", "line 5", "c"]


def test_a_word_without_end_is_cut_at_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "LONGEST_WORD", 5000)
    path = saved(tmp_path / "a.txt", ("日" * 20_000).encode())
    found = records(path, piece=1000)
    assert len(found) > 1
    assert whole(found) == ["日" * 20_000]


def test_what_files_are_found(tmp_path: Path) -> None:
    for name in ("b.txt", "a.jsonl.gz", "notes.md", "deep/c.parquet", "deep/d.TXT.XZ"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    here = find_files([str(tmp_path)])
    assert [str(path.relative_to(tmp_path)) for path in here] == [
        "a.jsonl.gz",
        "b.txt",
        "deep/c.parquet",
        "deep/d.TXT.XZ",
    ]
    assert find_files([str(tmp_path / "notes.md"), str(tmp_path / "*.md")]) == [tmp_path / "notes.md"]
    assert find_files([str(tmp_path / "**" / "c*")]) == [tmp_path / "deep" / "c.parquet"]
    assert find_files([str(tmp_path / "**")]) == find_files([str(tmp_path / "**" / "*")])
    (tmp_path / "empty").mkdir()
    for name in ("missing.txt", "*.zip", "empty"):
        with pytest.raises(InputError, match=name.replace("*", r"\*")):
            find_files([str(tmp_path / name)])


def test_a_glob_ends_where_links_lead_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two links to the folder they lie in give 2^40 paths to whoever follows them until the system refuses."""
    for name in ("a/one.txt", "a/b/two.txt", "a/.hidden/no.txt", "elsewhere/three.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name, target in (("a/back", ".."), ("a/b/again", ".."), ("a/0", "../elsewhere"), ("a/self", "self")):
        (tmp_path / name).symlink_to(target)
    monkeypatch.chdir(tmp_path)
    mine = ["a/b/two.txt", "a/back/elsewhere/three.txt", "a/one.txt"]
    assert [str(path) for path in find_files(["a/**/*.txt"])] in (mine, ["a/0/three.txt", "a/b/two.txt", "a/one.txt"])
    assert [path.name for path in find_files(["**/t*.txt"])] == ["two.txt", "three.txt"]
    assert len(find_files([f"{tmp_path}/*/**/**/*.txt", "a"])) >= 3
