"""A trained model with all that using it takes: its tokenizer, its configuration, the record of its import."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from phalanx.config import Config
from phalanx.data.tokenize import Tokenizer, load_run_tokenizer
from phalanx.errors import ModelError
from phalanx.models.build import make
from phalanx.models.family import context_of, spec_of
from phalanx.nn.batch import Batch
from phalanx.run.checkpoint import Checkpointer, Restored
from phalanx.run.folder import RunFolder
from phalanx.run.import_record import ImportRecord
from phalanx.spec.model import Spec


@dataclass(frozen=True)
class ModelBundle:
    """A trained model, ready to be used. `restored` says which checkpoint it is, and what was wrong with others."""

    run: Path
    model: nn.Module
    tokenizer: Tokenizer
    config: Config
    restored: Restored
    record: ImportRecord = field(default_factory=ImportRecord)

    @property
    def spec(self) -> Spec:
        """The model's description."""
        return spec_of(self.config.model)

    @property
    def context(self) -> int:
        """The tokens that the model has learned to see at once: positions past the training sequences are noise."""
        return context_of(self.config)

    def shared(self) -> nn.Module:
        """Return a copy of the model with slots of its own and the same weights."""
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        return copy.deepcopy(self.model, {id(parameter): parameter for parameter in self.model.parameters()})

    def logits(self, tokens: Sequence[int]) -> Tensor:
        """Return the scores of the tokenizer's words at each of at most `context` tokens.

        They are float32 [tokens, vocab], on the CPU. ModelError when the weights give none that are finite.
        """
        device = next(self.model.parameters()).device
        sequence = torch.tensor([tokens], device=device)
        index = torch.arange(len(tokens), device=device)[None]
        key = torch.zeros(1, dtype=torch.int32, device=device)
        segment = torch.zeros_like(sequence) if self.spec.segments else None
        with torch.no_grad():
            logits: Tensor = self.model(Batch(sequence, index, key, segment=segment))
        return self.finite(logits[0, :, : self.tokenizer.vocab].float().cpu())

    def finite(self, scores: Tensor) -> Tensor:
        """Return the scores as they are. ModelError where they are not finite."""
        if not scores.isfinite().all():
            raise self.broken()
        return scores

    def broken(self) -> ModelError:
        """Return the error to raise where scores are not finite."""
        if self.restored.step == 0:  # as an import writes it
            return ModelError(
                f"{self.run}: the scores are not finite: the weights of its folder are broken; copy or download it "
                "again"
            )
        return ModelError(
            f"{self.run}: with the weights of step {self.restored.step} the scores are not finite; "
            "train again with a lower optim.lr"
        )


@dataclass(frozen=True)
class OpenRun:
    """A run folder whose configuration and tokenizer were read and belong together; weights were not."""

    folder: RunFolder
    config: Config
    tokenizer: Tokenizer
    record: ImportRecord


def open_run(run: Path) -> OpenRun:
    """Read what a run folder has beside its checkpoints.

    InputError when there is no run, no tokenizer, or one with more tokens than the model.
    """
    folder = RunFolder.open(run)
    config = folder.config()
    tokenizer = load_run_tokenizer(folder.own_tokenizer(), config.model.vocab)
    return OpenRun(folder, config, tokenizer, ImportRecord.read(folder))


def load_bundle(run: Path, best: bool = True) -> ModelBundle:
    """Load the model of a run folder, in fp32, on a GPU when there is one: the best checkpoint's, or the newest's.

    InputError as from `open_run`, and when there is no whole checkpoint.
    """
    opened = open_run(run)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = make(opened.config.model)
    restored = Checkpointer(opened.folder).load_weights(model.state_dict(), best=best)
    return ModelBundle(run, model.eval(), opened.tokenizer, opened.config, restored, opened.record)
