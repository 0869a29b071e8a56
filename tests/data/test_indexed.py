"""The .bin/.idx pair: the same bytes as Megatron's, and a clear word about every broken one."""

import struct
from pathlib import Path

import numpy as np
import pytest

from phalanx.data.indexed import IndexedDataset, IndexedWriter, Position
from phalanx.errors import InputError
from tests.data.sets import write_set

DOCUMENTS = [[[1, 2, 3]], [[4], [5, 6]], [[7, 8, 9, 10]]]  # of sequences of tokens


def write(prefix: Path, documents: list[list[list[int]]] = DOCUMENTS, vocab: int = 100) -> None:
    write_set(prefix, documents, vocab)


def test_bytes_are_those_of_the_format(tmp_path: Path) -> None:
    write(tmp_path / "set")
    assert (tmp_path / "set.bin").read_bytes() == struct.pack("<10H", *range(1, 11))
    header = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8, 4, 4)
    body = struct.pack("<4i4q4q", 3, 1, 2, 4, 0, 6, 8, 12, 0, 1, 3, 4)
    assert (tmp_path / "set.idx").read_bytes() == header + body
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set.bin", "set.idx"]


def test_reads_what_it_wrote(tmp_path: Path) -> None:
    write(tmp_path / "set")
    dataset = IndexedDataset(tmp_path / "set")
    assert [dataset[i].tolist() for i in range(len(dataset))] == [[1, 2, 3], [4], [5, 6], [7, 8, 9, 10]]
    assert dataset.documents.tolist() == [0, 1, 3, 4]


@pytest.mark.parametrize(("vocab", "code", "width"), [(65_499, 8, 2), (65_500, 4, 4)])
def test_width_of_tokens_follows_the_vocabulary(tmp_path: Path, vocab: int, code: int, width: int) -> None:
    write(tmp_path / "set", vocab=vocab)
    assert (tmp_path / "set.idx").read_bytes()[17] == code
    assert (tmp_path / "set.bin").stat().st_size == 10 * width


def test_index_of_610_documents_has_12242_bytes(tmp_path: Path) -> None:
    write(tmp_path / "set", [[[i]] for i in range(610)])
    assert (tmp_path / "set.idx").stat().st_size == 12_242


def test_set_made_by_others_reads_and_is_written_again_byte_for_byte(data_dir: Path, tmp_path: Path) -> None:
    theirs = data_dir / "fixtures" / "megatron_indexed" / "meg-gpt2-openwebtext_text_document"
    dataset = IndexedDataset(theirs)
    assert (len(dataset), len(dataset.tokens), dataset.tokens.max()) == (1000, 1_361_845, 4999)
    write(tmp_path / "ours", [[list(dataset[i])] for i in range(1000)], vocab=5000)
    for suffix in (".bin", ".idx"):
        assert (tmp_path / f"ours{suffix}").read_bytes() == theirs.with_suffix(suffix).read_bytes()


def test_many_at_once_is_the_same_as_one_by_one(tmp_path: Path) -> None:
    write(tmp_path / "one")
    writer = IndexedWriter(tmp_path / "many", 100)
    writer.extend(np.arange(1, 6), np.array([3, 4]), np.array([1]))  # 5 begins a sequence that the next call ends
    writer.extend(np.arange(6, 9), np.array([1]), np.array([1]))
    writer.extend(np.arange(9, 11), np.array([2]), np.array([1, 1]))
    writer.close()
    for suffix in (".bin", ".idx"):
        assert (tmp_path / f"many{suffix}").read_bytes() == (tmp_path / f"one{suffix}").read_bytes()


def test_empty_sequences_and_documents_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "set", [[[1]], [], [[]], [[2], [], [3]]])
    dataset = IndexedDataset(tmp_path / "set")
    assert dataset.lengths.tolist() == [1, 1, 1]
    assert dataset.documents.tolist() == [0, 1, 3]


def test_goes_on_behind_a_commit_and_drops_what_came_later(tmp_path: Path) -> None:
    write(tmp_path / "whole")
    first = IndexedWriter(tmp_path / "set", 100)
    first.extend(np.arange(1, 6), np.array([3, 4]), np.array([1]))
    position = first.commit()
    assert position == Position(tokens=5, sequences=2, documents=1, open=1, document=1)
    first.extend(np.array([99, 99]), np.array([2]), np.array([1]))
    with pytest.raises(InputError, match="written by another process"):
        IndexedWriter(tmp_path / "set", 100, position)
    del first
    second = IndexedWriter(tmp_path / "set", 100, position)
    second.extend(np.arange(6, 11), np.array([1, 5]), np.array([1, 2]))
    second.close()
    for suffix in (".bin", ".idx"):
        assert (tmp_path / f"set{suffix}").read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()


def test_a_token_that_does_not_fit_is_a_defect(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        IndexedWriter(tmp_path / "set", 100).extend(np.array([70_000]), np.array([1]), np.array([1]))


def damaged(prefix: Path, suffix: str, at: int | None, value: bytes = b"") -> None:
    path = Path(f"{prefix}{suffix}")
    data = path.read_bytes()
    path.write_bytes(data[:at] + value + data[at + len(value) :] if value and at is not None else data[:at])


@pytest.mark.parametrize(
    ("suffix", "at", "value", "message"),
    [
        (".bin", -1, b"", "cut short"),
        (".idx", -1, b"", "cut short"),
        (".idx", 20, b"", "cut short"),
        (".idx", 0, b"", r"set\.idx is empty; copy or prepare the set again"),
        (".idx", 0, b"TNTIDX", "not a Megatron index"),
        (".idx", 9, b"\x02", "version 2"),
        (".idx", 17, b"\x07", "dtype code 7"),
        (".idx", 17, b"\x04", "cut short"),
        (".idx", 18, b"\x00", "no sequences"),
        (".idx", -8, b"\x02", "damaged"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, suffix: str, at: int, value: bytes, message: str) -> None:
    write(tmp_path / "set")
    damaged(tmp_path / "set", suffix, at, value)
    with pytest.raises(InputError, match=message) as error:
        IndexedDataset(tmp_path / "set")
    assert str(tmp_path / "set") in str(error.value)


@pytest.mark.parametrize("suffix", [".bin", ".idx"])
def test_a_missing_file_says_how_to_make_it(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / "set")
    (tmp_path / f"set{suffix}").unlink()
    with pytest.raises(InputError, match=r"missing.*phalanx prepare"):
        IndexedDataset(tmp_path / "set")
