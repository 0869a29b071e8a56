"""What another package would bring with a slip in it that a model, a run or its data must meet to show it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phalanx.config import Config, ModelConfig
from phalanx.data.source import Documents, Sample
from phalanx.models.bert import BertConfig
from phalanx.models.family import Preset
from phalanx.optimizer import OptimConfig
from phalanx.parallel.parameters import Parameters
from phalanx.spec.model import Spec
from phalanx.tasks.clm import CausalLM
from phalanx.train.optim import groups
from tests.strangers.families import ToyConfig
from tests.strangers.sources import Sums
from tests.strangers.tasks import OrdinalHead, Stars
from tests.strangers.trackers import Diary

HERE = "tests.strangers.slips"


# Families.


class PairFirstConfig(BertConfig):
    """What the network is: a BERT whose heads stand in another order."""

    family: str = f"{HERE}:PairFirst"

    def spec(self) -> Spec:
        spec = super().spec()
        return replace(spec, heads=spec.heads[::-1])


class PairFirst:
    TASK, Config = "mlm", PairFirstConfig
    PRESETS: Mapping[str, Preset] = {}


class WindowsConfig(ToyConfig):
    """What the network is: a toy with a key that could change."""

    family: str = f"{HERE}:Windows"
    windows: list[int] = []  # noqa: RUF012


class Windows:
    TASK, Config = "clm", WindowsConfig
    PRESETS: Mapping[str, Preset] = {}


class Listed:
    TASK, Config = "clm", ToyConfig
    PRESETS: Sequence[str] = ["a"]


class SpeltConfig(ModelConfig):
    """What the network is: nothing, for a name is spelt wrong."""

    family: str = f"{HERE}:Spelt"

    @property
    def default_ffn(self) -> int:
        return 3 * self.hiden  # type: ignore[attr-defined, no-any-return]


class Spelt:
    TASK, Config = "clm", SpeltConfig
    PRESETS: Mapping[str, Preset] = {}


# Optimizers.


class Momentum(OptimConfig):
    """How the weights move: by their momentum."""

    name: str = f"{HERE}:Momentum"

    def build(self, parameters: Parameters) -> list[torch.optim.Optimizer]:
        return [MomentumSteps(groups(parameters, 0.0), {"lr": self.lr})]

    def state(self, parameter: object) -> int:
        return 0

    def messages(self, parameters: object) -> list[int]:
        return []


class MomentumSteps(torch.optim.Optimizer):
    """Makes its state in its first step, as torch's own do."""

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                self.keep(p).lerp_(p.grad, 0.1)
                p.sub_(group["lr"] * self.state[p]["momentum"])

    def keep(self, p: Tensor) -> Tensor:
        return self.state[p].setdefault("momentum", torch.zeros_like(p))  # type: ignore[no-any-return]


class Counting(Momentum):
    name: str = f"{HERE}:Counting"

    def build(self, parameters: Parameters) -> list[torch.optim.Optimizer]:
        return [CountingSteps(groups(parameters, 0.0), {"lr": self.lr})]


class CountingSteps(MomentumSteps):
    """Counts its steps in a number of Python's."""

    def keep(self, p: Tensor) -> Tensor:
        self.state[p]["steps"] = self.state[p].get("steps", 0.0) + 1.0
        return torch.zeros_like(p)

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                self.keep(p)


class Twice(Momentum):
    name: str = f"{HERE}:Twice"

    def build(self, parameters: Parameters) -> list[torch.optim.Optimizer]:
        return super().build(parameters) * 2


class Warm(Momentum):
    name: str = f"{HERE}:Warm"
    warmup: bool = True  # type: ignore[assignment]


# Trackers.


class RequiredAbsent(Diary):
    required = True

    def __init__(self, config: Config, folder: Path, step: int) -> None:
        raise ValueError("no key")


class RequiredLost(Diary):
    required = True

    def train(self, step: int, values: object) -> None:
        raise ValueError("no route")


class RequiredUnflushed(Diary):
    required = True

    def close(self) -> None:
        raise ValueError("not all was written")


class Unflushed(Diary):
    def close(self) -> None:
        raise ValueError("not all was written\nof it")


# Sources.


class Other(Sums):
    """Tokens of other kinds: in the other order of bytes, and not to be written."""

    def sample(self, i: int, draw: int) -> Sample:
        sample = super().sample(i, draw)
        tokens = sample.tokens.astype(sample.tokens.dtype.newbyteorder())
        tokens.setflags(write=False)
        return sample._replace(tokens=tokens, document=np.zeros(len(tokens), ">i8"))


class Endless(Sums):
    def __len__(self) -> int:
        return (1 << 63) - 1


class Half(Sums):
    def fingerprint(self) -> str:
        return "\udc80"


# Tasks and heads.


class Failing(CausalLM):
    def loss_counts(self, batch: Any) -> Any:
        raise KeyError("documents")


class Whole(CausalLM):
    def loss_counts(self, batch: Any) -> Any:
        return {"lm": 5}


class Nothing(CausalLM):
    def source(self, documents: Documents) -> Any:
        return None


class Broken(CausalLM):
    def source(self, documents: Documents) -> Any:
        raise KeyError("lengths")


class Bare(CausalLM):
    losses: Any = "lm"


class Text(Stars):
    def answer(self, row: Any) -> dict[str, Any]:
        return {"related": row.label}


class Narrow(Stars):
    """Its judgement is one of numpy's numbers."""

    def judge(self, answers: Any, source: Any) -> Any:
        return {name: np.float32(value) for name, value in super().judge(answers, source).items()}


class Empty(Stars):
    @classmethod
    def fitted(cls, config: Config) -> Config:
        return config.model_copy(update={"model": config.model.tuned(cls.head, classes=0)})


class UnboundHead(OrdinalHead):
    task = f"{HERE}:Unbound"

    def width(self, classes: int) -> int:  # type: ignore[override]
        return classes


class Unbound(Stars):
    head = f"{HERE}:UnboundHead"


class ThreeHead(OrdinalHead):
    task = f"{HERE}:Three"

    def loss(self, *given: Any) -> tuple[Tensor, ...]:
        return super().loss(*given) * 3


class Three(Stars):
    head = f"{HERE}:ThreeHead"
