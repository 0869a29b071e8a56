"""Encoders and GPT-2 as graphs, whose batch, length and past are free: for onnxruntime, OpenVINO and others.

An encoder takes input_ids, attention_mask and, where it tells segments apart, token_type_ids, and gives the logits of
its heads. A GPT takes input_ids, an attention_mask over past and new tokens, and the past keys and values of every
block, and gives logits and the keys and values of past and new together; a past of length 0 begins. Shorter texts of a
batch are filled up at the left for a GPT, at the right for an encoder.
"""

import copy
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from phalanx.config import ModelConfig
from phalanx.errors import InputError
from phalanx.heads.head import head_of
from phalanx.infer.bundle import ModelBundle
from phalanx.models.gpt2 import unlike
from phalanx.nn.attention import Attention, Context, fused
from phalanx.nn.batch import Batch
from phalanx.spec.model import Spec
from phalanx.spec.supported import PRETRAINING

OPSET = 18


def outputs(spec: Spec) -> tuple[str, ...]:
    """Return the names of a graph's outputs."""
    head = head_of(spec)
    return head.outputs if head else tuple(PRETRAINING[loss].output for loss in spec.losses)


def untraceable(spec: Spec) -> str:
    """Return what of a model no graph can have; "" if there is a graph of it."""
    if spec.causal and (reason := unlike(spec)):
        return f"there are graphs of decoders of GPT-2's kind alone, and of this one {reason}"
    return ""


class TracedModel(nn.Module):
    """A module to be traced. `inputs` are examples by name, with the dimensions that are free; `outputs` are names."""

    inputs: dict[str, tuple[Tensor, dict[int, Any]]]
    outputs: tuple[str, ...]

    def __init__(self, bundle: ModelBundle) -> None:
        super().__init__()
        on_cpu = next(bundle.model.parameters()).device.type == "cpu"
        self.model = (bundle.shared() if on_cpu else copy.deepcopy(bundle.model).cpu()).eval()
        self.config: ModelConfig = bundle.config.model
        self.spec = bundle.spec

    def size(self) -> int:
        """Return the bytes of its weights."""
        return sum(parameter.nbytes for parameter in self.parameters())


class TracedEncoder(TracedModel):
    """An encoder with its heads, or what lies under them (`hidden`)."""

    def __init__(self, bundle: ModelBundle, hidden: bool = False) -> None:
        super().__init__(bundle)
        self.hidden = hidden
        self.outputs = ("hidden",) if hidden else outputs(self.spec)
        ids = torch.randint(self.config.vocab, (3, min(7, self.config.positions)))
        free = {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("sequence", max=self.config.positions)}
        like = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if self.spec.segments > 1:
            like["token_type_ids"] = torch.zeros_like(ids)
        self.inputs = {name: (tensor, free) for name, tensor in like.items()}

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Return logits [batch, sequence, vocab] of int64 [batch, sequence], and pair_logits [batch, 2] where the model
        judges pairs; of a fine-tuned head its logits, those of a span apart: start_logits and end_logits [batch,
        sequence]; hidden: [batch, sequence, hidden].
        """
        rows, length = input_ids.shape
        index = torch.arange(length).expand(rows, length)
        document = (attention_mask - 1).to(torch.int32)
        key = torch.zeros(rows, dtype=torch.int32)
        batch = Batch(input_ids, index, key, segment=token_type_ids, document=document)

        model: Any = self.model
        hidden = model.transformer(batch)
        if self.hidden:
            return (hidden,)

        if model.answer is None:
            logits = model.masked(hidden, model.words)
            return (logits,) if model.pair is None else (logits, model.pair(hidden))

        logits = model.answer(hidden, batch)
        return logits.unbind(-1) if len(self.outputs) > 1 else (logits,)


class TracedDecoder(TracedModel):
    """A decoder with its past."""

    def __init__(self, bundle: ModelBundle) -> None:
        super().__init__(bundle)
        model = self.config
        self.layers = model.layers
        attentions = [module for module in self.model.modules() if isinstance(module, Attention)]
        for layer, attention in enumerate(attentions):
            attention.attend_by(partial(_attend, layer))

        pasts = [f"past.{layer}.{kind}" for layer in range(self.layers) for kind in ("key", "value")]
        self.outputs = ("logits", *(name.replace("past", "present") for name in pasts))

        batch, new = torch.export.Dim("batch", min=1), torch.export.Dim("sequence", max=model.positions)
        past = torch.export.Dim("past", min=0, max=model.positions)
        ids, width = torch.randint(model.vocab, (3, 4)), model.hidden // model.heads
        shape = 3, model.heads, 5, width

        mask: dict[int, Any] = {0: batch, 1: torch.export.Dim.DYNAMIC}
        self.inputs = {
            "input_ids": (ids, {0: batch, 1: new}),
            "attention_mask": (torch.ones(3, 9, dtype=torch.int64), mask),
        }
        self.inputs |= {name: (torch.randn(shape), {0: batch, 2: past}) for name in pasts}

    def forward(self, input_ids: Tensor, attention_mask: Tensor, *pasts: Tensor) -> tuple[Tensor, ...]:
        """Return logits [batch, new, vocab], and the keys and values of past and new together, of int64 [batch, new],
        int64 [batch, past + new], and float32 [batch, heads, past, width] of each block's past keys and values.
        """
        index = (attention_mask.cumsum(1) - 1).clamp(min=0)
        document = (attention_mask - 1).to(torch.int32)
        key = torch.zeros(input_ids.shape[0], dtype=torch.int32)
        past, model = pasts[0].shape[2], cast(Any, self.model)
        positions, documents = index[:, past:], document[:, past:]
        batch = Batch(input_ids, positions, key, document=documents)

        mask = (documents[:, :, None] == document[:, None, :])[:, None]
        mask = mask & (positions[:, :, None] >= index[:, None, :])[:, None]
        cache = Past(pasts, [])
        hidden = model.transformer(batch, context=Context(positions, key, mask, True, cache=cache))
        return model.head(hidden, model.words), *cache.presents


class Past(NamedTuple):
    """`Context.cache` of a graph: the past keys and values [batch, heads, past, width] of each block in turn, and what
    they come to with the new ones, block by block.
    """

    pasts: Sequence[Tensor]
    presents: list[Tensor]


def _attend(layer: int, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
    """Attend to past keys and values and to the new ones, which a mask is over."""
    before = context.cache.pasts[2 * layer : 2 * layer + 2]
    k, v = (torch.cat([old, new], 2) for old, new in zip(before, (k, v), strict=True))
    context.cache.presents.extend((k, v))
    return fused(q, k, v, context)


@contextmanager
def quieter(name: str) -> Iterator[None]:
    """Let a logger report errors alone for a while."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def onnx_program(traced: TracedModel) -> Any:
    """Make an ONNX program of a traced model. InputError where a package that the exporter needs is missing."""
    examples = tuple(tensor for tensor, _ in traced.inputs.values())
    free: list[Any] = [dims for _, dims in traced.inputs.values()]
    if len(free) > 3:
        free = [free[0], free[1], tuple(free[2:])]  # as forward takes them
    try:
        with warnings.catch_warnings(), quieter("torch.onnx"):  # what it misses of other packages
            warnings.simplefilter("ignore")
            return torch.onnx.export(
                traced, examples, input_names=list(traced.inputs), output_names=list(traced.outputs), dynamo=True,
                dynamic_shapes=tuple(free), opset_version=OPSET, verbose=False,
            )  # fmt: skip
    except ModuleNotFoundError as error:
        raise InputError(f"ONNX needs the package {error.name}; install phalanx[onnx]") from None
