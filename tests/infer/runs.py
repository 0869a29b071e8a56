"""Run folders and answers for the tests of inference."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from phalanx.config import Config, DataConfig, ModelConfig
from phalanx.data.tokenize import load_tokenizer
from phalanx.infer.load import Loaded
from phalanx.models.build import build
from phalanx.nn.batch import Batch
from phalanx.run.checkpoint import Checkpointer, Restored
from phalanx.run.folder import RunFolder

GPT = Config(
    task="clm",
    data=DataConfig(sequence=12),
    model=ModelConfig(layers=1, hidden=16, heads=2, positions=12, vocab=50257, init_std=0.5),
)
BERT = Config(
    task="mlm",
    data=DataConfig(sequence=16),
    model=ModelConfig(family="bert", layers=1, hidden=16, heads=2, positions=16, vocab=30522, segments=2,
                      norm_first=False, gelu="erf", init_std=0.5),
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


class Scripted(nn.Module):
    """A model whose next token is a function of the tokens it sees."""

    def __init__(self, answer: Callable[[list[int]], int], vocab: int) -> None:
        super().__init__()
        self.answer, self.vocab = answer, vocab
        self.place = nn.Parameter(torch.zeros(()))
        self.seen: list[list[int]] = []

    def forward(self, batch: Batch) -> Tensor:
        tokens = batch.tokens[0].tolist()
        self.seen.append(tokens)
        logits = torch.zeros(1, len(tokens), self.vocab)
        logits[0, -1, self.answer(tokens)] = 100
        return logits


def scripted(answer: Callable[[list[int]], int], config: Config = GPT) -> tuple[Loaded, Scripted]:
    """A GPT-2 run that answers by script."""
    tokenizer = load_tokenizer("gpt2")
    model = Scripted(answer, config.model.vocab)
    return Loaded(Path("run"), model, tokenizer, config, Restored(1, None, ())), model
