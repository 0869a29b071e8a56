"""What the scaling benchmarks train: a GPT by Phalanx's trainer, and the plainest peers of the same size.

    phalanx       the trainer itself, on a layout, with everything it does in a step
    ddp           Hugging Face's GPT-2 in DistributedDataParallel
    parallelize   a plain GPT by DTensor's `parallelize_module`, vocabulary-parallel loss included

All: fp32, dropout 0.1 after the embedding and the sub-layers, fused AdamW, gradients clipped to norm 1, random tokens
that are made before the clock runs.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional as F

Step = Callable[[int], float]


class Shape(NamedTuple):
    """Sizes of a GPT and of the batch of all processes together."""

    layers: int
    hidden: int
    heads: int
    batch: int
    vocab: int = 8192
    sequence: int = 256


class Tokens:
    """A task of random tokens without end."""

    losses = ("lm",)
    labelled, best_by = False, "loss"
    valid = None

    def __init__(self, shape: Shape) -> None:
        import numpy as np

        from phalanx.data.source import Sample

        dice = np.random.default_rng(0)
        drawn = dice.integers(shape.vocab, size=(64, shape.sequence + 1))
        self.train = _Round([Sample(row[:-1], row[1:], None, None, -1) for row in drawn])

    def loss_counts(self, batch: Any) -> dict[str, Tensor]:
        """Every position counts."""
        return {"lm": (batch.labels >= 0).sum()}


class _Round(list[Any]):
    """Begins again at its end."""

    def __getitem__(self, n: Any) -> Any:
        return super().__getitem__(n % len(self))


def phalanx(shape: Shape, *words: str) -> Step:
    """The trainer's own step, on the layout that `words` name."""

    trainer, told = trainer_of(shape, None, *words)

    def step(number: int) -> float:
        trainer.step(number)
        return told["loss"]

    return step


def trainer_of(shape: Shape, folder: Any, *words: str) -> tuple[Any, dict[str, float]]:
    """A trainer on random tokens that saves in a run folder, and what the last step told."""
    from phalanx import recipe
    from phalanx.train.monitor import Silent
    from phalanx.train.resolve import Target, resolve
    from phalanx.train.trainer import Trainer

    sizes = [f"model.{key}={getattr(shape, key)}" for key in ("layers", "hidden", "heads", "vocab")]
    settings = [*sizes, "model.family=gpt2", f"model.positions={shape.sequence}", f"data.sequence={shape.sequence}",
                f"train.batch={shape.batch}", "train.device=cpu", "train.compile=off", "precision.dtype=fp32",
                "model.dropout=0.1", "optim.lr=1e-4", *words]  # fmt: skip
    processes = dist.get_world_size() if dist.is_initialized() else 1
    config = resolve(recipe.from_words(settings), Target(processes))
    told: dict[str, float] = {}

    class Told(Silent):
        def step(self, step: int, values: Any) -> None:
            told.update(values)

    task: Any = Tokens(shape)
    return Trainer(config, task, folder, Told()), told


def ddp(shape: Shape) -> Step:
    """Hugging Face's model, replicated."""
    import transformers

    options = transformers.GPT2Config(
        vocab_size=shape.vocab, n_positions=shape.sequence, n_embd=shape.hidden, n_layer=shape.layers,
        n_head=shape.heads, resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.0,
    )  # fmt: skip
    torch.manual_seed(1)
    model: nn.Module = transformers.GPT2LMHeadModel(options)
    if dist.is_initialized():
        model = nn.parallel.DistributedDataParallel(model)
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    tokens = _tokens(shape)[: shape.batch // ranks]
    return _loop(model, lambda: model(input_ids=tokens, labels=tokens).loss)


def parallelize(shape: Shape) -> Step:
    """A plain GPT whose products DTensor splits."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        loss_parallel,
        parallelize_module,
    )

    torch.manual_seed(1)
    model = Plain(shape)
    tokens = _tokens(shape)
    if not dist.is_initialized():
        return _loop(model, lambda: F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()))
    ranks = dist.get_world_size()
    plan: dict[str, Any] = {
        "words": RowwiseParallel(input_layouts=Replicate()),
        "head": ColwiseParallel(output_layouts=Shard(-1), use_local_output=False),
    }
    for layer, block in enumerate(model.blocks):
        assert isinstance(block, PlainBlock)
        block.heads //= ranks
        for name in ("query", "key", "value", "up"):
            plan[f"blocks.{layer}.{name}"] = ColwiseParallel()
        for name in ("out", "down"):
            plan[f"blocks.{layer}.{name}"] = RowwiseParallel()
    parallelize_module(model, init_device_mesh("cpu", (ranks,)), plan)
    model.head.weight = model.words.weight

    def loss() -> Tensor:
        return F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())

    step = _loop(model, loss)

    def within(number: int) -> float:
        with loss_parallel():
            return step(number)

    return within


class PlainBlock(nn.Module):
    """A pre-LN block as tutorials write it."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads, self.width = heads, hidden // heads
        self.norm1, self.norm2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.query, self.key, self.value, self.out = (nn.Linear(hidden, hidden) for _ in range(4))
        self.up, self.down = nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """x [batch, seq, hidden]"""
        y = self.norm1(x)
        q, k, v = (f(y).unflatten(-1, (self.heads, self.width)).transpose(1, 2)
                   for f in (self.query, self.key, self.value))  # fmt: skip
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + F.dropout(self.out(y), 0.1)
        return x + F.dropout(self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh")), 0.1)


class Plain(nn.Module):
    """A GPT as tutorials write it."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(shape.vocab, shape.hidden), nn.Embedding(shape.sequence, shape.hidden)
        self.blocks = nn.ModuleList(PlainBlock(shape.hidden, shape.heads) for _ in range(shape.layers))
        self.norm, self.head = nn.LayerNorm(shape.hidden), nn.Linear(shape.hidden, shape.vocab, bias=False)
        self.head.weight = self.words.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens [batch, seq] -> logits [batch, seq, vocab]"""
        x = F.dropout(self.words(tokens) + self.places.weight, 0.1)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits


def _tokens(shape: Shape) -> Tensor:
    return torch.randint(shape.vocab, (shape.batch, shape.sequence), generator=torch.Generator().manual_seed(0))


def _loop(model: nn.Module, loss: Callable[[], Tensor]) -> Step:
    """The plain loop. torch's clipping and fused AdamW refuse lists in which only some are DTensors: these are not
    clipped, and have a group of their own."""
    split = [p for p in model.parameters() if isinstance(p, DTensor)]
    whole = [p for p in model.parameters() if not isinstance(p, DTensor)]
    groups = [{"params": group} for group in (split, whole) if group]
    optimizer = torch.optim.AdamW(groups, 1e-4, fused=True)

    def step(_: int) -> float:
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        if not split:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return value.item()

    return step
