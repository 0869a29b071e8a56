"""BERT and GPT-2 as graphs, whose batch, length and past are free: for onnxruntime, OpenVINO and what builds on them.

A BERT takes input_ids, attention_mask and token_type_ids and gives the logits of its heads. A GPT takes input_ids, an
attention_mask over past and new tokens, and the past keys and values of every block, and gives logits and the keys and
values of past and new together; a past of length 0 begins. Shorter texts of a batch are filled up at the left for a
GPT, at the right for a BERT.
"""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from phalanx.config import ModelConfig
from phalanx.errors import InputError
from phalanx.infer.bundle import ModelBundle
from phalanx.models.gpt2 import unlike
from phalanx.nn.attention import Attention
from phalanx.nn.batch import Batch
from phalanx.spec.model import Spec

OPSET = 18
HEADS = {  # the losses of a model's heads, and the outputs of its graph
    ("lm",): ("logits",),
    ("mlm", "nsp"): ("logits", "pair_logits"),
    ("classes",): ("logits",),
    ("value",): ("logits",),
    ("choice",): ("logits",),
    ("tokens",): ("logits",),
    ("span",): ("start_logits", "end_logits"),
}


def untraceable(spec: Spec) -> str:
    """Return what of a model has no graph here; "" if there is a graph of it."""
    reason = unlike(spec)
    if not reason and spec.losses not in HEADS:
        reason = f"its head is for {' and '.join(spec.losses)}"
    return f"there are graphs of models of GPT-2's and BERT's kind alone, and of this one {reason}" if reason else ""


class Graph(nn.Module):
    """What is traced: `inputs` by name, each an example and which of its dimensions are free; names of `outputs`."""

    inputs: dict[str, tuple[Tensor, dict[int, Any]]]
    outputs: tuple[str, ...]

    def __init__(self, bundle: ModelBundle) -> None:
        super().__init__()
        here = next(bundle.model.parameters()).device.type == "cpu"
        self.model = (bundle.model if here else copy.deepcopy(bundle.model).cpu()).eval()
        self.config: ModelConfig = bundle.config.model
        self.spec = bundle.spec

    def size(self) -> int:
        """Bytes of the weights."""
        return sum(parameter.nbytes for parameter in self.parameters())


class BertGraph(Graph):
    """A BERT with its heads, or what lies under them (`hidden`)."""

    def __init__(self, bundle: ModelBundle, hidden: bool = False) -> None:
        super().__init__(bundle)
        self.hidden = hidden
        self.outputs = ("hidden",) if hidden else HEADS[self.spec.losses]
        ids = torch.randint(self.config.vocab, (3, min(7, self.config.positions)))
        free = {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("sequence", max=self.config.positions)}
        like = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
        self.inputs = {name: (tensor, free) for name, tensor in like.items()}

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> tuple[Tensor, ...]:
        """All int64 [batch, sequence] -> logits [batch, sequence, vocab], pair_logits [batch, 2]; of a fine-tuned head
        its logits, those of a span apart: start_logits and end_logits [batch, sequence]; hidden: [batch, sequence,
        hidden]
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
            return model.masked(hidden, model.words), model.pair(hidden)
        logits = model.answer(hidden, batch)
        return logits.unbind(-1) if self.spec.tuned == "span" else (logits,)


class GPTGraph(Graph):
    """A GPT with its past."""

    def __init__(self, bundle: ModelBundle) -> None:
        super().__init__(bundle)
        model = self.config
        self.layers = model.layers
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
        """int64 [batch, new], int64 [batch, past + new], float32 [batch, heads, past, width] of each block's keys and
        values -> logits [batch, new, vocab], and the same of past and new together
        """
        index = (attention_mask.cumsum(1) - 1).clamp(min=0)
        document = (attention_mask - 1).to(torch.int32)
        key = torch.zeros(input_ids.shape[0], dtype=torch.int32)
        presents: list[Tensor] = []
        model: Any = self.model
        with _remembering(model, [*pasts], presents, index, document):
            past = pasts[0].shape[2]
            batch = Batch(input_ids, index[:, past:], key, document=document[:, past:])
            hidden = model.transformer(batch)
        return model.head(hidden, model.words), *presents


@contextmanager
def _remembering(
    model: Any, pasts: list[Tensor], presents: list[Tensor], index: Tensor, document: Tensor
) -> Iterator[None]:
    """Attention sees past keys and values before the new ones, and the mask is over both."""

    def joined(x: Tensor) -> Tensor:
        whole = torch.cat([pasts[len(presents)], x], 2)
        presents.append(whole)
        return whole

    transformer = model.transformer
    attentions = [module for module in transformer.modules() if isinstance(module, Attention)]
    before = transformer.everywhere, [attention.keys for attention in attentions]
    transformer.everywhere = lambda x: document if x.dtype == torch.int32 else index
    for attention in attentions:
        attention.keys = joined
    try:
        yield
    finally:
        transformer.everywhere = before[0]
        for attention, keys in zip(attentions, before[1], strict=True):
            attention.keys = keys


@contextmanager
def quieter(name: str) -> Iterator[None]:
    """A logger tells errors alone for a while."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def onnx_program(graph: Graph) -> Any:
    """A graph as an ONNX program; InputError where the exporter's packages are not here."""
    examples = tuple(tensor for tensor, _ in graph.inputs.values())
    free: list[Any] = [dims for _, dims in graph.inputs.values()]
    if len(free) > 3:
        free = [free[0], free[1], tuple(free[2:])]  # as forward takes them
    try:
        with warnings.catch_warnings(), quieter("torch.onnx"):  # what it misses of other packages
            warnings.simplefilter("ignore")
            return torch.onnx.export(
                graph, examples, input_names=list(graph.inputs), output_names=list(graph.outputs), dynamo=True,
                dynamic_shapes=tuple(free), opset_version=OPSET, verbose=False,
            )  # fmt: skip
    except ModuleNotFoundError as error:
        raise InputError(f"ONNX needs the package {error.name}; install phalanx[onnx]") from None
