"""Sets that are not as they were written: which file, which place, whoever opens them; and that copies are sets."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from phalanx.cli.app import app
from phalanx.data import manifest as manifests
from phalanx.data import meter, verify
from phalanx.data.gpt import GPTSource
from phalanx.data.indexed import HEADER
from phalanx.data.manifest import Manifest, manifest_path
from phalanx.data.prepare import PrepareOptions, prepare
from phalanx.data.source import Documents, open_sets
from phalanx.errors import InputError
from tests.data.sets import write_set

LINES = 300
OPTIONS = PrepareOptions("bert-uncased", "line", workers=1)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text and the set `whole` of it, whose manifest has a checksum for every 64 bytes."""
    folder = tmp_path_factory.mktemp("verify")
    (folder / "text.txt").write_text("".join(f"the cat number {n} sat\n" for n in range(LINES)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifests, "PIECE", 64)
        prepare([str(folder / "text.txt")], str(folder / "whole"), OPTIONS)
    return folder


@pytest.fixture
def prefix(original: Path, tmp_path: Path) -> str:
    """A copy of the set, with the times that its files had."""
    for path in original.glob("whole.*"):
        shutil.copy2(path, tmp_path / path.name.replace("whole", "set"))
    return str(tmp_path / "set")


def overwritten(path: Path, offset: int, value: bytes, keep_time: bool = False) -> None:
    """Put other bytes into a file of the same size."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(value)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + (not keep_time)))


def looked_at(prefix: str) -> list[int]:
    """The pieces of the .bin file whose checksums are compared when a run goes on."""
    return [*verify._some(len(Manifest.read(prefix).written["bin"].sha256))]


def whole(prefix: str) -> str:
    return verify.verify(prefix, Console(quiet=True))


def test_other_tokens_of_the_same_size_are_found_by_whoever_opens_the_set(prefix: str, original: Path) -> None:
    place = 64 * looked_at(prefix)[1]
    overwritten(Path(f"{prefix}.bin"), place, bytes(64))
    where = rf"bytes {place:,} to {place + 63:,} \(documents \d+ to \d+\)"
    told = rf"set\.bin is not as it was written: {where} do not have the manifest's checksum; copy it here again"
    openings: list[Callable[[], object]] = [
        lambda: open_sets([prefix]),
        lambda: verify.fingerprint(prefix),
        lambda: prepare([str(original / "text.txt")], prefix, OPTIONS),
        lambda: whole(prefix),
    ]
    for opening in openings:
        with pytest.raises(InputError, match=told):
            opening()


def test_a_time_that_was_put_back_hides_nothing_from_a_run_that_goes_on(prefix: str) -> None:
    """Opening a set alone looks at the times, which a copy may have changed: then at the checksums."""
    assert open_sets([prefix])
    overwritten(Path(f"{prefix}.bin"), 64 * looked_at(prefix)[-1], b"\x07\x07", keep_time=True)
    assert open_sets([prefix])
    with pytest.raises(InputError, match=r"set\.bin is not as it was written: bytes"):
        verify.fingerprint(prefix)


def test_a_copy_has_a_time_of_its_own(prefix: str, original: Path) -> None:
    for suffix in (".bin", ".idx"):
        os.utime(f"{prefix}{suffix}")
    assert open_sets([prefix])
    assert verify.fingerprint(prefix) == Manifest.read(original / "whole").sha256["bin"]
    assert prepare([str(original / "text.txt")], prefix, OPTIONS) == Manifest.read(original / "whole")


@pytest.mark.parametrize("with_manifest", [True, False])
@pytest.mark.parametrize(
    ("at", "value", "told"),
    [
        (
            lambda n: HEADER.size + 4 * 7,
            90,
            r"sequence 7 begins at byte \d+ with 90 tokens of 2 bytes, and the next one",
        ),
        (lambda n: HEADER.size + 4 * 7, -1, r"sequence 7 begins at byte \d+ with -1 tokens"),
        (lambda n: HEADER.size + 4 * n, 2, r"sequence 0 begins at byte 2 with"),
        (lambda n: HEADER.size + 4 * n + 8 * 9 + 7, 1 << 6, r"sequence 8 begins at byte .* next one at byte 4,611,686"),
        (
            lambda n: HEADER.size + 12 * n + 8 * 5,
            0,
            "document 4 begins with sequence 4 of 300, and the next one before",
        ),
        (lambda n: HEADER.size + 12 * n + 8 * 5 + 2, 9, r"document 5 begins with sequence 589,829 of 300"),
    ],
)
def test_an_index_garbled_at_equal_length(
    prefix: str, at: Callable[[int], int], value: int, told: str, with_manifest: bool
) -> None:
    """Its numbers contradict each other, so a set of Megatron's own, without a manifest, is seen through too."""
    path = Path(f"{prefix}.idx")
    overwritten(path, at(LINES), value.to_bytes(4 if value < 0 else 1, "little", signed=value < 0))
    if not with_manifest:
        manifest_path(prefix).unlink()
    for look in (lambda: open_sets([prefix]), lambda: whole(prefix)):
        with pytest.raises(InputError, match=rf"set\.idx is damaged: {told}"):
            look()


def test_of_a_large_file_some_pieces_are_compared_and_by_verify_all(
    prefix: str,
) -> None:
    """The same ones each time. What lies in the other pieces verify tells."""
    pieces = len(Manifest.read(prefix).written["bin"].sha256)
    chosen = looked_at(prefix)
    assert len(chosen) == len(set(chosen)) == verify.PIECES < pieces / 2
    assert chosen == looked_at(prefix) and max(chosen) < pieces
    assert [*verify._some(5)] == [0, 1, 2, 3, 4]

    missed = next(number for number in range(pieces - 1) if number not in chosen)
    overwritten(Path(f"{prefix}.bin"), missed * 64 + 5, b"\x07")
    assert verify.fingerprint(prefix)
    with pytest.raises(InputError, match=rf"bytes {missed * 64:,} to {missed * 64 + 63:,} \(documents"):
        whole(prefix)


def test_manifests_of_earlier_versions(prefix: str, original: Path) -> None:
    """They have one checksum a file, which is compared where the file is not large."""
    told = json.loads(manifest_path(prefix).read_text())
    for name in ("written", "blank", "encoding"):
        del told[name]
    manifest_path(prefix).write_text(json.dumps(told))
    assert prepare([str(original / "text.txt")], prefix, OPTIONS).documents == LINES
    assert "all bytes have the manifest's checksums" in whole(prefix)
    overwritten(Path(f"{prefix}.bin"), 500, b"\x07\x07")
    assert open_sets([prefix])
    for look in (lambda: verify.fingerprint(prefix), lambda: whole(prefix)):
        with pytest.raises(InputError, match=rf"set\.bin is not as it was written: .*documents 0 to {LINES - 1}"):
            look()


def test_a_manifest_of_other_files(prefix: str) -> None:
    told = json.loads(manifest_path(prefix).read_text())
    manifest_path(prefix).write_text(json.dumps(told | {"tokens": 7}))
    with pytest.raises(InputError, match=r"set\.bin has 3,\d\d\d bytes, 14 were written"):
        open_sets([prefix])
    told["written"]["bin"]["sha256"].pop()
    manifest_path(prefix).write_text(json.dumps(told))
    with pytest.raises(InputError, match=r"set\.manifest\.json is damaged: checksums of PREFIX\.bin are missing"):
        open_sets([prefix])
    told["written"]["bin"]["piece"] = 0
    manifest_path(prefix).write_text(json.dumps(told))
    with pytest.raises(InputError, match=r"set\.manifest\.json is damaged \(written\.bin\.piece"):
        open_sets([prefix])


def test_another_tokenizer_beside_a_set(prefix: str, original: Path) -> None:
    overwritten(Path(f"{prefix}.tokenizer.json"), 100, b"?")
    for look in (lambda: whole(prefix), lambda: prepare([str(original / "text.txt")], prefix, OPTIONS)):
        with pytest.raises(InputError, match=r"set\.tokenizer\.json is not the tokenizer that made the set"):
            look()


@pytest.mark.parametrize(("vocab", "odd"), [(60_000, 65_535), (70_000, 100_000), (70_000, -3)])
def test_a_token_beyond_the_vocabulary_is_named_with_its_document(tmp_path: Path, vocab: int, odd: int) -> None:
    """Where the sample that holds it is made, however far into the file that is."""
    write_set(tmp_path / "set", [[range(10)], [range(10)], [range(10)]], vocab)
    tokens = np.memmap(tmp_path / "set.bin", "<u2" if vocab < 65_500 else "<i4", "r+")
    tokens[15] = odd
    [(documents, _)] = open_sets([str(tmp_path / "set")])
    source = GPTSource(documents, 4, vocab, None, False)
    assert source.sample(0, 0).tokens.tolist() == [0, 1, 2, 3]
    told = rf"set\.bin: document 1 holds the token {odd} \(byte {15 * tokens.itemsize}\), and the tokenizer has 0 to"
    with pytest.raises(InputError, match=told):
        source.sample(3, 3)
    part = GPTSource(Documents(documents.dataset, 1, 3, "set"), 4, vocab, None, False)
    with pytest.raises(InputError, match=told):
        part.sample(1, 1)


def test_verify_at_the_command_line(
    prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line a set, the faulty ones on stderr with exit code 2, and how far it is."""
    monkeypatch.setattr(meter, "SECONDS", 0)
    write_set(tmp_path / "theirs", [[range(10)], [range(5), range(5)]])
    overwritten(Path(f"{prefix}.bin"), 64, bytes(64), keep_time=True)
    shutil.copy(f"{prefix}.idx", tmp_path / "sound.idx")
    with pytest.raises(SystemExit) as stop:
        app(["data", "verify", f"{tmp_path}/theirs", prefix, f"{tmp_path}/nothing"])
    said = capsys.readouterr()
    assert stop.value.code == 2
    assert said.out.splitlines() == [
        f"{tmp_path}/theirs: 3 sequences of 2 documents in order, 20 tokens up to 9; it has no manifest, so there are "
        "no checksums to compare"
    ]
    errors = [line for line in said.err.splitlines() if line.startswith("phalanx: ")]
    assert "set.bin is not as it was written: bytes 64 to 127" in errors[0] and "nothing.bin is missing" in errors[1]
    assert len(errors) == 2 and f"verifying {prefix}: " in said.err and "s left" in said.err


def test_a_sound_set_is_told_on_one_line(prefix: str) -> None:
    told = whole(prefix)
    assert told.startswith(
        f"{prefix}: all bytes have the manifest's checksums; 300 sequences of 300 documents in order"
    )
    assert told.endswith(" of a vocabulary of 30,522") and "\n" not in told
