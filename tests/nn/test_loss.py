"""The loss that never holds the logits, against the loss that does."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from phalanx.models.build import build
from phalanx.models.family import configured
from phalanx.nn import logit_chunks, loss, slots
from tests.batches import batch_of

ROWS, HIDDEN, VOCAB = 70, 8, 300
BERT = {"family": "bert", "norm_first": False, "gelu": "erf", "segments": 2}


@pytest.fixture(params=[1, 1 << 11, 1 << 25], ids=["one row a chunk", "uneven chunks", "one chunk"])
def _chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(logit_chunks.LIMITS, "cpu", (request.param, 1 << 20))


def inputs(bias: bool) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    torch.manual_seed(0)
    labels = torch.randint(VOCAB, (ROWS,))
    labels[::9] = -1
    leaves = [torch.randn(*shape, requires_grad=True) for shape in ((ROWS, HIDDEN), (VOCAB, HIDDEN), (VOCAB,))]
    return leaves[0], leaves[1], leaves[2] if bias else None, labels


def plain(hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight, bias), labels, ignore_index=-1, reduction="sum")


def plain_z(hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
    return F.linear(hidden, weight, bias).logsumexp(-1)[labels >= 0].square().sum()


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("z", [0.0, 0.3])
def test_value_and_gradients(bias: bool, fused: bool, z: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
    *leaves, labels = inputs(bias)
    wanted = [leaf for leaf in leaves if leaf is not None]
    columns = loss.compiled(z) if fused else loss.WHOLE._replace(z=z)
    ours, extra = loss.vocabulary_loss(*leaves, labels, slots.gemm, columns)
    theirs, squares = plain(*leaves, labels), z * plain_z(*leaves, labels)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.zeros(()) if extra is None else extra, squares)
    assert (extra is None) == (z == 0), "nothing is held for it"
    grads = torch.autograd.grad(ours / 7, wanted), torch.autograd.grad((theirs + squares) / 7, wanted)
    for mine, expected in zip(*grads, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-5 if z else 1e-6)


@pytest.mark.usefixtures("_chunks")
def test_without_gradients() -> None:
    hidden, weight, bias, labels = inputs(bias=True)
    with torch.no_grad():
        guesses = F.linear(hidden, weight, bias).argmax(-1)
        labels = torch.where(torch.arange(ROWS) % 3 == 0, guesses, labels)
        total, correct = loss.vocabulary_score(hidden, weight, bias, labels, slots.gemm)
        torch.testing.assert_close(total.sum(), plain(hidden, weight, bias, labels))
        assert correct.equal(guesses == labels)


def test_leaves_are_not_touched_before_backward() -> None:
    hidden, weight, bias, labels = inputs(bias=True)
    total, _ = loss.vocabulary_loss(hidden, weight, bias, labels, slots.gemm)
    assert hidden.grad is None and weight.grad is None
    total.backward()
    assert hidden.grad is not None and weight.grad is not None


def test_labels_in_half_precision_products_are_scored_in_single() -> None:
    def half(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return slots.gemm(x.bfloat16(), weight.bfloat16())

    hidden, weight, _, labels = inputs(bias=False)
    total, _ = loss.vocabulary_loss(hidden, weight, None, labels, half)
    assert total.dtype == torch.float32
    (grad,) = torch.autograd.grad(total, hidden)
    assert grad.dtype == torch.float32
    torch.testing.assert_close(total, plain(hidden, weight, None, labels), rtol=2e-2, atol=0)


class Largest(TorchDispatchMode):
    """The most elements of any tensor that an operation made."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_iter(out) if isinstance(leaf, Tensor)]
        self.numel = max([self.numel, *sizes])
        return out


@pytest.mark.parametrize("training", [True, False])
def test_no_tensor_of_the_size_of_the_logits(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 10 * VOCAB
    monkeypatch.setitem(logit_chunks.LIMITS, "cpu", (limit, 1 << 20))
    *leaves, labels = inputs(bias=True)
    with torch.set_grad_enabled(training), Largest() as seen:
        if training:
            loss.vocabulary_loss(*leaves, labels, slots.gemm)[0].backward()
        else:
            loss.vocabulary_score(*leaves, labels, slots.gemm)
    assert seen.numel <= limit < ROWS * VOCAB
    with Largest() as seen:
        plain(*leaves, labels).backward()
    assert seen.numel == ROWS * VOCAB


@pytest.mark.parametrize("kind", [{}, BERT], ids=["gpt", "bert"])
@pytest.mark.parametrize("training", [True, False])
def test_no_model_makes_one(kind: dict[str, Any], training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 128 tokens, all labelled, where the loss may hold 16."""
    monkeypatch.setitem(logit_chunks.LIMITS, "cpu", (16 * 1024, 1 << 20))
    model = build(configured(layers=1, hidden=8, heads=1, positions=32, vocab=1024, **kind), 0, torch.device("cpu"))
    labels = torch.randint(1024, (4, 32))
    with torch.set_grad_enabled(training), Largest() as seen:
        total = model(batch_of(torch.randint(1024, (4, 32)), 32, labels=labels))
        if training:
            next(iter(total.values())).backward()
    assert seen.numel <= 16 * 1024


def test_nothing_labelled() -> None:
    hidden, weight, bias, labels = inputs(bias=True)
    total, _ = loss.vocabulary_loss(hidden[:0], weight, bias, labels[:0], slots.gemm)
    assert total == 0 and total.dtype == torch.float32
    total.backward()
    assert hidden.grad is not None and not hidden.grad.any()
    scored = loss.vocabulary_score(hidden[:0].detach(), weight, bias, labels[:0], slots.gemm)
    assert [terms.numel() for terms in scored] == [0, 0]


def test_the_count_of_nothing_is_on_the_labels_device() -> None:
    hidden, weight, bias, labels = (t.detach().to("meta") for t in inputs(bias=True))
    _, correct = loss.vocabulary_score(hidden[:0], weight, bias, labels[:0], slots.gemm)
    assert correct.device.type == "meta"


@pytest.mark.parametrize("family", [{}, BERT], ids=["gpt2", "bert"])
def test_a_batch_without_labels_leaves_the_model_finite(family: dict[str, object]) -> None:
    """A micro-batch of padding, or one where chance masked nothing."""
    model = build(configured(layers=1, hidden=16, heads=1, positions=8, vocab=40, **family), 0, torch.device("cpu"))
    tokens = torch.randint(40, (2, 8))
    related = torch.tensor([-1, -1])
    sums = model(batch_of(tokens, 8, labels=torch.full_like(tokens, -1), related=related))
    total = sum(value for name, value in sums.items() if not name.endswith("correct"))
    assert total == 0
    total.backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_only_masked_positions_meet_the_vocabulary() -> None:
    model = build(configured(layers=1, hidden=16, heads=1, positions=64, vocab=5000, **BERT), 0, torch.device("cpu"))
    tokens = torch.randint(5000, (4, 64))
    labels = torch.where(torch.arange(64) < 3, tokens, -1)
    with torch.no_grad(), Largest() as seen:
        model(batch_of(tokens, 64, labels=labels))
    assert seen.numel <= max(4 * 3 * 5000, 5120 * 16)
