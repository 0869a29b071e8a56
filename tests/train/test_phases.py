"""A run that starts from another: BERT's second phase."""

import shutil
from pathlib import Path

import pytest
import torch

from phalanx.data.tokenize import load_tokenizer
from phalanx.errors import InputError
from phalanx.tasks.run import train
from tests.train.runs import QUIETLY, Corpus, Record, fit, same_bits, trainer


def _phase_one(corpus: Corpus, run: Path) -> tuple[Path, Record]:
    words = [*QUIETLY, "optim.name=lamb", "data.sequence=16", "layout.micro_batch=0"]
    return run / "one", fit(run / "one", corpus.config("bert", *words))


def test_a_second_phase_takes_weights_and_moments_and_starts_anew(corpus: Corpus, run: Path) -> None:
    """With settings of its own; and when it is resumed it does not start again."""
    first, _ = _phase_one(corpus, run)
    words = [f"train.init={first}", "optim.name=lamb", "optim.lr=2e-3", "optim.weight_decay=0.3", "optim.beta2=0.9"]
    config = corpus.config("bert", *words, "save.every=2")
    made, record = trainer(run / "two", config)
    other, _ = trainer(run / "one", corpus.config("bert", "optim.name=lamb"))
    made.start()
    other.start()
    assert made.progress.step == 0 and other.progress.step == 6
    assert same_bits(list(made.model.state_dict().values()), list(other.model.state_dict().values()))
    ours, theirs = (m._state()["optimizer"]["state"] for m in (made, other))
    assert any(moments["exp_avg"].any() for moments in theirs.values())
    for name, moments in ours.items():
        assert torch.equal(moments["exp_avg"], theirs[name]["exp_avg"])
        assert torch.equal(moments["exp_avg_sq"], theirs[name]["exp_avg_sq"])
        assert (moments["step"], theirs[name]["step"]) == (0, 6)
    group = made.optimizers[0].param_groups[0]
    assert (group["weight_decay"], group["betas"]) == (0.3, (0.9, 0.9))
    made.fit()
    assert list(record.steps) == list(range(1, 7)) and record.steps[1]["lr"] == 1e-3
    assert any("starting from step 6" in note for note in record.notes)
    shutil.rmtree(run / "two" / "checkpoints" / "step-0000006")
    again = fit(run / "two", config)
    assert again.steps == {step: values for step, values in record.steps.items() if step > 4}


def test_a_second_phase_of_another_model_is_refused(corpus: Corpus, run: Path) -> None:
    """By the keys of [model], before there is a folder."""
    first, _ = _phase_one(corpus, run)
    words = [*corpus.words("bert"), f"train.init={first}", "optim.name=lamb"]
    with pytest.raises(InputError) as refused:
        train("bert-tiny", [*words, "model.hidden=64", "model.positions=48"], run / "two", quiet=True)
    assert str(refused.value) == (
        f"train.init={first} is of another model: model.hidden=32, model.ffn=128, model.positions=32, not "
        f"model.hidden=64, model.ffn=256, model.positions=48; take its keys, as `phalanx train … --from {first}` does"
    )
    with pytest.raises(InputError, match=r"model.heads=2, not model.heads=4;"):
        train("bert-tiny", [*words, "model.heads=4"], run / "two", quiet=True)
    with pytest.raises(InputError, match=r'model.family="bert", not model.family="llama";'):
        train("gpt-tiny", [*corpus.words("llama"), *words[-2:], f"data.tokenizer={corpus.file('bert')}",
                           f"data.train={corpus.folder / 'bert'}"], run / "two", quiet=True)  # fmt: skip
    with pytest.raises(InputError, match=r"moments of optim.name=lamb, from which muon cannot go on; use lamb$"):
        train("bert-tiny", [*words, "optim.name=muon"], run / "two", quiet=True)
    assert not (run / "two").exists()


def test_a_second_phase_of_another_tokenizer_is_refused(corpus: Corpus, run: Path) -> None:
    """As many tokens, but of other meanings: nothing else would tell."""
    text = corpus.file("gpt").read_text()
    other = run.with_name("other.json")
    other.write_text(text.replace('"!"', '"\\u0000"').replace('"A"', '"!"').replace('"\\u0000"', '"A"'))
    assert load_tokenizer(str(other)).vocab == corpus.tokenizer("gpt").vocab
    train("gpt-tiny", [*corpus.words("gpt"), *QUIETLY, "train.steps=1", "optim.warmup=0"], run / "one", quiet=True)
    words = [*corpus.words("gpt"), f"train.init={run / 'one'}"]
    with pytest.raises(InputError, match=r"train\.init=.*one has another tokenizer than the data"):
        train("gpt-tiny", [*words, f"data.tokenizer={other}"], run / "two", quiet=True)
    assert not (run / "two").exists()
