"""Loading a run for use: which checkpoint, which tokenizer, and what is wrong in one line."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from phalanx.convert.huggingface import export_run
from phalanx.data.tokenize import load_tokenizer
from phalanx.errors import InputError
from phalanx.infer.bundle import load_bundle
from phalanx.tasks.score import score
from tests.batches import batch_of
from tests.infer.runs import BERT, GPT, make_run


def test_best_or_newest(tmp_path: Path) -> None:
    models = make_run(tmp_path / "run", GPT, "gpt2", losses=(3.0, 2.0, 2.5))
    for best, step in ((True, 2), (False, 3)):
        loaded = load_bundle(tmp_path / "run", best=best)
        assert loaded.restored.step == step
        saved, got = models[step - 1].state_dict(), loaded.model.state_dict()
        assert all(torch.equal(saved[name], got[name].cpu()) for name in saved)


def test_logits_are_the_models_and_dropout_is_off(tmp_path: Path) -> None:
    (model,) = make_run(tmp_path / "run", BERT, "bert-uncased")
    loaded = load_bundle(tmp_path / "run")
    tokens = [5, 6, 7, 30521]
    with torch.no_grad():
        batch = batch_of(torch.tensor([tokens]), 16, segment=torch.zeros(1, 4, dtype=torch.int64))
        expected = model.eval()(batch)[0]
    torch.testing.assert_close(loaded.logits(tokens), expected, rtol=0, atol=1e-5)


def test_words_that_the_tokenizer_lacks_have_no_logits(tmp_path: Path) -> None:
    """NVIDIA's BERT has a vocabulary of 30,528 for 30,522 words."""
    config = BERT.model_copy(update={"model": BERT.model.model_copy(update={"vocab": 30528})})
    make_run(tmp_path / "run", config, "bert-uncased")
    assert load_bundle(tmp_path / "run").logits([1, 2]).shape == (2, 30522)


def test_the_context_is_what_was_trained(tmp_path: Path) -> None:
    config = GPT.model_copy(update={"data": GPT.data.model_copy(update={"sequence": 7})})
    make_run(tmp_path / "short", config, "gpt2")
    assert load_bundle(tmp_path / "short").context == 7


def test_a_damaged_best_gives_way_and_says_so(tmp_path: Path) -> None:
    make_run(tmp_path / "run", GPT, "gpt2", losses=(3.0, 2.0))
    weights = tmp_path / "run" / "checkpoints" / "step-0000002" / "model.0.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    restored = load_bundle(tmp_path / "run").restored
    assert restored.step == 1
    assert len(restored.notes) == 1 and "step-0000002" in restored.notes[0]


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=str(tmp_path / "run")):
        load_bundle(tmp_path / "run")


def test_no_checkpoint(tmp_path: Path) -> None:
    make_run(tmp_path / "run", GPT, "gpt2", losses=())
    with pytest.raises(InputError, match="no checkpoint"):
        load_bundle(tmp_path / "run")


@pytest.mark.parametrize(
    "use", [load_bundle, score, lambda run: export_run(run, run / "out")], ids=["used", "judged", "exported"]
)
def test_the_tokenizer_of_another_vocabulary(tmp_path: Path, use: Callable[[Path], object]) -> None:
    make_run(tmp_path / "run", BERT, "bert-uncased")
    load_tokenizer("gpt2").save(tmp_path / "run" / "tokenizer.json")
    (tmp_path / "run" / "data.json").unlink(missing_ok=True)  # as in a run of before its tokenizer was noted
    with pytest.raises(InputError, match=r"tokenizer\.json has 50257 tokens.*30522"):
        use(tmp_path / "run")
    assert not (tmp_path / "run" / "out").exists()


def test_no_tokenizer(tmp_path: Path) -> None:
    make_run(tmp_path / "run", GPT, "gpt2")
    (tmp_path / "run" / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        load_bundle(tmp_path / "run")
