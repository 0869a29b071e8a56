"""`phalanx data show`: the very sample that training would see."""

from pathlib import Path

import pytest

from phalanx.data.prepare import PrepareOptions, prepare
from phalanx.errors import InputError
from phalanx.tasks.show import show

TEXT = "The cat sat. It slept.\nThe dog ran. It barked.\nA fish swam away. Nobody saw.\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three documents of two sentences, as sets `gpt` and `bert`."""
    folder = tmp_path_factory.mktemp("show")
    (folder / "text.txt").write_text(TEXT)
    for name, tokenizer in (("gpt", "gpt2"), ("bert", "bert-uncased")):
        options = PrepareOptions(tokenizer, "line", sentences=name == "bert", workers=1)
        prepare([str(folder / "text.txt")], str(folder / name), options)
    return folder


def test_a_gpt_set_is_shown_as_text(folder: Path) -> None:
    shown = show(f"{folder}/gpt", 0, "", 10, [])
    assert shown == "The cat sat. It slept.<|endoftext|>The dog ran\n\n10 tokens, each predicting the next"
    stops = show(f"{folder}/gpt", 0, "", 10, ["data.stop_at_documents=true"])
    assert "It slept.<|endoftext|>\n── attention stops here ──\nThe dog ran\n" in stops


def test_a_set_of_sentences_is_shown_with_masks(folder: Path) -> None:
    shown = show(f"{folder}/bert", 0, "", 32, ["data.short_fraction=0", "data.mask_fraction=0.5"])
    a, b, _, about = shown.splitlines()
    assert a.startswith("A (") and a.endswith("[SEP]") and "[CLS] " in a
    assert b.startswith("B (") and b.endswith("[SEP]")
    assert "→" in shown and "to predict; B " in about
    assert show(f"{folder}/bert", 0, "", 32, ["data.short_fraction=0", "data.mask_fraction=0.5"]) == shown


def test_the_task_can_be_said(folder: Path) -> None:
    assert show(f"{folder}/bert", 0, "clm", 8, []).endswith("8 tokens, each predicting the next")
    alone = show(f"{folder}/bert", 0, "mlm", 32, ["data.pairs=none"])
    assert alone.endswith("no pair") and "B (" not in alone


def test_samples_that_are_not_there(folder: Path) -> None:
    for number in (-1, 2):
        with pytest.raises(InputError, match=rf"sample {number} of .*gpt: it has 2 at data.sequence=10"):
            show(f"{folder}/gpt", number, "", 10, [])
    with pytest.raises(InputError, match=r"nothing.bin is missing"):
        show(f"{folder}/nothing", 0, "", 10, [])
