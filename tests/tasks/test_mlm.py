"""Masked language modelling without pairs: a RoBERTa by its recipe, from text to a folder of transformers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from phalanx.errors import InputError
from phalanx.infer.bundle import load_bundle
from tests.cli.running import phalanx
from tests.train.runs import make_corpus

SMALL = ["model.layers=1", "model.hidden=32", "model.heads=2", "model.positions=32", "data.sequence=32",
         "train.batch=4", "train.steps=2", "train.eval_every=2", "train.eval_sequences=4", "train.device=cpu",
         "train.compile=off", "layout.micro_batch=4", "data.split=0.8,0.2,0"]  # fmt: skip


def test_a_roberta_of_ones_own_text(tmp_path: Path) -> None:
    make_corpus(tmp_path)
    text, tokenizer, prefix, run = (tmp_path / name for name in ("text.txt", "own.json", "set", "run"))
    phalanx("tokenizer", "train", text, "--out", tokenizer, "--vocab", 320, "--kind", "roberta")
    phalanx("prepare", text, "--out", prefix, "--tokenizer", tokenizer, "--document", "blank-line")
    phalanx("train", "roberta-tiny", f"data.train={prefix}", *SMALL, "--out", run)
    assert "perplexity" in phalanx("eval", run)
    filled = phalanx("fill", run, "the <mask> there")
    assert filled.startswith("<mask> at token ") and filled.count("%") == 5

    phalanx("export", run, tmp_path / "hf")
    theirs: Any = AutoModelForMaskedLM.from_pretrained(tmp_path / "hf")
    rows = AutoTokenizer.from_pretrained(tmp_path / "hf")("so it is", return_tensors="pt")
    assert "token_type_ids" not in rows and theirs.config.model_type == "roberta"
    ours = load_bundle(run).logits(rows["input_ids"][0].tolist())
    with torch.no_grad():
        torch.testing.assert_close(ours, theirs.eval()(**rows).logits[0], rtol=0, atol=1e-4)


def test_padding_of_another_number_is_refused(tmp_path: Path) -> None:
    """Positions begin one behind it: elsewhere the model would be another one."""
    corpus = make_corpus(tmp_path)
    data = f"data.train={corpus.folder / 'bert'}", f"data.tokenizer={corpus.file('bert')}"
    with pytest.raises(InputError, match=r"is token 1, and that of .*bert is token 0; use model\.first_position=1"):
        phalanx("train", "roberta-tiny", *data, *SMALL, "--out", tmp_path / "run")
