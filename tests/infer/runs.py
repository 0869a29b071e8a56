"""Run folders and answers for the tests of inference."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phalanx.config import Config, DataConfig
from phalanx.data.tokenize import load_tokenizer
from phalanx.infer.bundle import ModelBundle
from phalanx.infer.decoder_model import DecoderModel as Model
from phalanx.infer.kv_cache import Chunk, Pages
from phalanx.infer.sample import likeliest
from phalanx.models.build import build
from phalanx.models.family import configured
from phalanx.nn.attention import Context
from phalanx.run.checkpoint import Checkpointer, Restored
from phalanx.run.folder import RunFolder

GPT = Config(
    task="clm",
    data=DataConfig(sequence=12),
    model=configured(layers=1, hidden=16, heads=2, positions=12, vocab=50257, init_std=0.5, attention_dropout=0.1),
)
BERT = Config(
    task="mlm",
    data=DataConfig(sequence=16),
    model=configured(family="bert", layers=1, hidden=16, heads=2, positions=16, vocab=30522, segments=2,
                      norm_first=False, gelu="erf", init_std=0.5, attention_dropout=0.1),
)  # fmt: skip


def make_run(path: Path, config: Config, tokenizer: str, losses: Sequence[float] = (1.0,)) -> list[nn.Module]:
    """A run folder with a checkpoint of other weights for every loss; the models saved there, by step from 1."""
    file = path.with_suffix(".tokenizer.json")
    load_tokenizer(tokenizer).save(file)
    checkpointer = Checkpointer(RunFolder.create(path, config, file.read_text()), keep=3, asynchronous=False)
    models = [build(config.model, seed, torch.device("cpu")) for seed in range(len(losses))]
    for step, (model, loss) in enumerate(zip(models, losses, strict=True), 1):
        checkpointer.save(step, {"model": model.state_dict(), "optimizer": {"count": torch.zeros(3)}}, loss)
    return models


class Scripted:
    """A decoder whose next token is a function of the tokens before it."""

    room = 1 << 30
    takes_drafts = True

    def __init__(self, answer: Callable[[list[int]], int], vocab: int) -> None:
        self.answer, self.vocab = answer, vocab
        self.seen: list[list[int]] = []
        self.known: dict[tuple[int, ...], list[int]] = {}

    def reserve(self, tokens: int) -> Pages:
        return Pages((len(self.known),), torch.zeros(0), True, np.zeros(0))

    def release(self, pages: Pages) -> None:
        pass

    def __call__(self, chunks: Sequence[Chunk]) -> list[Tensor]:
        found = []
        for chunk in chunks:
            tokens = [*self.known.get(chunk.pages.numbers, [])[: chunk.start], *chunk.tokens]
            self.known[chunk.pages.numbers] = tokens
            self.seen.append(tokens)
            scores = torch.zeros(chunk.wanted, self.vocab)
            for row in range(chunk.wanted):
                scores[row, self.answer(tokens[: len(tokens) - chunk.wanted + 1 + row])] = 100
            found.append(likeliest(scores) if chunk.greedy else scores)
        return found


def scripted(answer: Callable[[list[int]], int], config: Config = GPT) -> tuple[Model, Scripted]:
    """A GPT-2 run that answers by script."""
    decoder = Scripted(answer, config.model.vocab)
    loaded = ModelBundle(Path("run"), nn.Linear(1, 1), load_tokenizer("gpt2"), config, Restored(1, None, ()))
    return Model(loaded, decoder=decoder, lookup=False), decoder


def sliced(q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
    """`attend_varlen` on any device, in any precision."""
    assert context.cu_seqlens is not None
    y = torch.full_like(q, torch.nan)
    for part in (slice(first, last) for first, last in pairwise(context.cu_seqlens.tolist())):
        assert part.stop - part.start <= context.max_seqlen
        y[:, :, part] = F.scaled_dot_product_attention(*(x[:, :, part] for x in (q, k, v)), is_causal=context.causal)
    return y


@contextmanager
def interrupted(block: nn.Module, other: Callable[[], object]) -> Iterator[None]:
    """In every call of a model do something `other` before `block` is computed, but not in the middle of that too."""
    busy: list[bool] = []

    def interrupt(*_: object) -> None:
        if not busy:
            busy.append(True)
            other()
            busy.clear()

    handle = block.register_forward_pre_hook(interrupt)
    yield
    handle.remove()
