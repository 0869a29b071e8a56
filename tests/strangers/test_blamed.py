"""A mistake in what comes from outside is told in one line that names it; the package's own keep their tracebacks."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from phalanx import optimizer, recipe
from phalanx.data.custom import Part, fingerprint_of, open_custom
from phalanx.data.source import Sample
from phalanx.errors import InputError, ModelError
from phalanx.infer import backends
from phalanx.infer.backends.checked import CheckedDecoder, CheckedEncoder
from phalanx.infer.kv_cache import Chunk
from phalanx.nn.answer import AnswerHead
from phalanx.registry import BACKENDS, blamed
from phalanx.train import monitor
from phalanx.train.evaluate import _judged
from phalanx.train.state import check_finite, check_state, spoilt
from tests.strangers.broken import Half, Program, Undescribed, ones, wrong
from tests.strangers.optimizers import Normed
from tests.strangers.test_trackers import config_with, tell
from tests.train.described import parameters_of
from tests.train.runs import Corpus, trainer

SAMPLE = Sample(np.arange(4), np.arange(4), None, None, -1)


@pytest.mark.parametrize("name", ["my.code:Thing", "adamw"])
def test_whose_fault_it_is(name: str) -> None:
    with pytest.raises(InputError if ":" in name else KeyError) as caught, blamed("optim.name", name, "build()"):
        raise KeyError("x")
    if ":" in name:
        said = "optim.name=my.code:Thing: build() raised KeyError: 'x'; PHALANX_TRACEBACK=1 shows where"
        assert str(caught.value) == said and isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize(
    "error",
    [InputError("mine"), KeyboardInterrupt(), MemoryError(), RuntimeError("CUDA out of memory"), OSError(5, "x")],
)
def test_what_is_nobodys_fault_passes(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, blamed("optim.name", "my.code:Thing", "build()"):
        raise error
    assert caught.value is error


def test_a_lost_process_is_no_fault_of_the_code_that_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="closed by peer"), blamed("optim.name", "my.code:Thing", "build()"):
        raise RuntimeError("Connection closed by peer")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def (", "SyntaxError: "),
        ("undefined", "NameError: name 'undefined' is not defined"),
        ("{}['k']", "KeyError: 'k'"),
        ("raise RuntimeError('no gpu')", "RuntimeError: no gpu"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("open('/nonexistent')", "FileNotFoundError: "),
        ("import nosuch", "No module named 'nosuch'"),
    ],
)
def test_a_module_that_breaks_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    module = f"stranger{abs(hash(text))}"
    (tmp_path / f"{module}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError) as caught:
        BACKENDS.find(f"{module}:Thing")
    assert str(caught.value).startswith(f"backend '{module}:Thing' cannot be loaded: {said}")


def test_a_key_without_a_docstring_has_an_empty_help() -> None:
    text = recipe.dump(recipe.load("gpt-tiny", [f"optim.name={Undescribed().name}"]))
    assert "#\nrho = 0.5\n" in text and "# Optimizer: adamw, lamb" in text


@pytest.mark.parametrize(
    ("method", "answer", "said"),
    [
        ("build", KeyError("x"), "build() raised KeyError: 'x'; PHALANX_TRACEBACK=1 shows where"),
        ("build", None, "build() gave NoneType None, not a list of torch's optimizers"),
        ("state_bytes", "4", "state() gave str '4', not a whole number of bytes"),
        ("state_bytes", -4, "state() gave int -4, not a whole number of bytes"),
        ("messages", 5, "messages() gave int 5, not a list of whole numbers"),
        ("messages", ["a"], "messages() gave list ['a'], not a list of whole numbers"),
        ("products", [(1, 2)], "products() gave list [(1, 2)], not a list of tuples (m, n, k)"),
    ],
)
def test_an_optimizer(monkeypatch: pytest.MonkeyPatch, method: str, answer: Any, said: str) -> None:
    monkeypatch.setattr(Normed, method.removesuffix("_bytes"), wrong(answer))
    with pytest.raises(InputError) as caught:
        getattr(optimizer, method)(Normed(), cast(Any, None))
    assert str(caught.value) == f"optim.name={Normed().name}: {said}"


def test_an_optimizer_that_forgets_a_parameter() -> None:
    parameters = parameters_of(nn.Linear(2, 3))
    with pytest.raises(InputError, match=r"Half: build\(\) gives torch no bias, which would never be trained"):
        check_state(Half(), Half().build(parameters), parameters)


def test_a_weight_that_is_not_finite_is_found() -> None:
    model = nn.Linear(2, 3)
    assert spoilt(parameters_of(model)) == ""
    with torch.no_grad():
        model.bias[1] = math.nan
    assert spoilt(parameters_of(model)) == "bias"
    with pytest.raises(
        InputError, match="after step 3 the weight bias is not finite, and is not saved; there is no che"
    ):
        check_finite(Normed(), parameters_of(model), 3, 0)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "raised TypeError: 'NoneType' object is not iterable"),
        (ZeroDivisionError("by zero"), "the call of its program raised ZeroDivisionError: by zero"),
        ([], "it gave 0 answers to 1 questions"),
        ([ones(4)], r"an answer is \(4,\), and \(3,\) was expected"),
        ([ones(3) * math.nan], "gives scores that are not finite"),
    ],
)
def test_an_encoder(answer: Any, said: str) -> None:
    with pytest.raises(InputError, match=f"backend=my.code:B.*{said}"):
        CheckedEncoder("my.code:B", cast(Any, SimpleNamespace(shape=lambda row: (3,))), Program(answer))([cast(Any, 0)])


def test_a_generator_is_taken_as_the_list_that_it_gives() -> None:
    program = Program(each for each in [ones(3)])
    (answer,) = CheckedEncoder("my.code:B", cast(Any, SimpleNamespace(shape=lambda row: (3,))), program)([cast(Any, 0)])
    np.testing.assert_array_equal(answer, ones(3))
    (scores,) = CheckedDecoder("my.code:B", 3, cast(Any, Program(each for each in [ones(1, 3)])))(
        [Chunk(cast(Any, 0), 0, [1], 1)]
    )
    assert torch.equal(scores, torch.ones(1, 3))


@pytest.mark.parametrize(
    ("answer", "greedy", "said"),
    [
        (None, True, "raised TypeError: 'NoneType' object is not iterable"),
        ([torch.tensor([9])], True, "is broken: token 9 is none of the tokenizer's 9"),
        ([torch.tensor([-5])], True, "is broken: token -5 is none of the tokenizer's 9"),
        ([torch.tensor([1.0])], True, "is broken: its tokens are torch.float32, and int64 was expected"),
        ([torch.tensor([-1])], True, "gives scores that are not finite"),
        ([torch.full((1, 9), math.nan)], False, "gives scores that are not finite"),
    ],
)
def test_a_decoder(answer: Any, greedy: bool, said: str) -> None:
    with pytest.raises(InputError, match=f"backend=my.code:B:? {said}|{said}"):
        CheckedDecoder("my.code:B", 9, cast(Any, Program(answer)))([Chunk(cast(Any, 0), 0, [1], 1, greedy)])


def test_a_decoder_without_what_it_needs() -> None:
    with pytest.raises(ModelError, match=r"decoder\(\) gave NoneType without room"):
        CheckedDecoder("my.code:B", 9, cast(Any, None))
    with pytest.raises(ModelError, match="has no memory for one text of 4 tokens"):
        CheckedDecoder("my.code:B", 9, cast(Any, Program([]))).reserve(4)


def test_a_backend_that_gives_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.strangers.backends.Plain.unavailable", wrong(None))
    with pytest.raises(InputError, match=r"Plain: unavailable\(\) gave None, not text"):
        backends.unavailable("tests.strangers.backends:Plain", "encoder", cast(Any, None), "fp32")


def test_a_tracker_that_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(monitor, "peak_flops", lambda *_: 1e9)
    config = config_with("Diary")
    config = config.updated(log={"trackers": ("tests.strangers.broken:Leaving",)})
    tell(config, tmp_path)
    assert "Leaving failed and is told nothing more: SystemExit: 3" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (KeyError("k"), "data.train=my.code:S: sample(0, …) raised KeyError: 'k'; PHALANX_TRACEBACK=1 shows where"),
        (None, "my.code:S: sample 0 is NoneType; phalanx.data.source.Sample is wanted"),
        (SAMPLE._replace(tokens=[0] * 4), "my.code:S: sample 0 has tokens that are no array [4]: list"),
        (SAMPLE._replace(tokens=ones(4)), "my.code:S: sample 0 has tokens of float32; whole numbers are wanted"),
        (SAMPLE._replace(labels=np.arange(3)), "my.code:S: sample 0 has 3 labels; data.sequence=4 of them are wanted"),
        (SAMPLE._replace(segment=np.arange(4)), "my.code:S: sample 0 has segment beyond 0 to 1"),
        (SAMPLE._replace(document=np.arange(5)), "my.code:S: sample 0 has 5 document; data.sequence=4 of them are"),
        (SAMPLE._replace(related=cast(Any, None)), "my.code:S: sample 0 has related=None; a whole number is wanted"),
    ],
)
def test_a_source(answer: Any, said: str) -> None:
    source = cast(Any, SimpleNamespace(sample=wrong(answer)))
    with pytest.raises(InputError) as caught:
        Part(source, "data.train", "my.code:S", (4, 9), 0, 1).sample(0, 0)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("method", "answer", "said"),
    [
        ("__init__", TypeError("x"), "its construction raised TypeError: x"),
        ("__len__", -1, r"len\(\) raised ValueError: "),
        ("fingerprint", 5, r"fingerprint\(\) gave int 5, not text"),
    ],
)
def test_a_source_that_is_opened(monkeypatch: pytest.MonkeyPatch, method: str, answer: Any, said: str) -> None:
    """By the key that names it, with or without a weight."""
    name = "tests.strangers.sources:Sums"
    config = recipe.from_words([f"data.valid={name}@0.5,other", "data.sequence=4"])
    monkeypatch.setattr(f"tests.strangers.sources.Sums.{method}", wrong(answer))
    with pytest.raises(InputError, match=f"data.valid={name}: {said}"):
        (fingerprint_of if method == "fingerprint" else open_custom)(name, config, cast(Any, None))


@pytest.mark.parametrize("answer", [None, {"near": math.nan}, {"far": 1.0}, {"near": "1"}, KeyError("x")])
def test_a_task_that_judges(answer: Any) -> None:
    task, config = SimpleNamespace(judge=wrong(answer), best_by="near"), SimpleNamespace(task="my.code:T")
    with pytest.raises(InputError, match=r"^task=my.code:T: judge\(\) (gave|raised) "):
        _judged(cast(Any, task), cast(Any, config), [], cast(Any, None))


@pytest.mark.parametrize("answer", [None, torch.tensor(1.0), (torch.ones(2),), TypeError("x")])
def test_a_head_and_its_loss(answer: Any) -> None:
    head = cast(Any, AnswerHead.__new__(AnswerHead))
    nn.Module.__init__(head)
    head.name, head.kind, head.split = "my.code:H", SimpleNamespace(loss=wrong(answer)), None
    head.forward = wrong(None)
    with pytest.raises(InputError, match=r"^model.head=my.code:H: loss\(\) (gave|raised) "):
        head.sums(None, None)


def test_an_optimizer_whose_step_fails(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = corpus.config("gpt", f"optim.name={Normed().name}")
    made, _ = trainer(tmp_path / "run", config)
    monkeypatch.setattr(made.optimizers[0], "step", wrong(KeyError("x")))
    with pytest.raises(InputError, match=r"optimizers:Normed: step\(\) raised KeyError: 'x'; PHALANX_TRACEBACK=1"):
        made.fit()
