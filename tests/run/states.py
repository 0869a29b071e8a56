"""A small state to save, each of whose numbers is the same, so that a mixture of two saves shows."""

from pathlib import Path
from typing import Any

import torch

from phalanx.run.folder import RunFolder

State = dict[str, Any]


def make_folder(path: Path) -> RunFolder:
    folder = RunFolder(path)
    folder.checkpoints.mkdir(exist_ok=True)
    return folder


def make_state(fill: float) -> State:
    """A state whose every number is `fill`, in several parts and tensors, 48 KiB."""
    fill = float(fill)
    return {
        "model": {f"weight{i}": torch.full((64, 16), fill) for i in range(12)},
        "optimizer": {"state": {"w": {"step": torch.tensor(fill)}}, "groups": [{"lr": fill, "betas": (0.9, fill)}]},
        "step": int(fill),
    }


def fill_of(state: State) -> float:
    """The one number that fills `state`; fails when there are several."""
    group = state["optimizer"]["groups"][0]
    numbers = {float(state["step"]), group["lr"], group["betas"][1], state["optimizer"]["state"]["w"]["step"].item()}
    for weight in state["model"].values():
        numbers |= set(weight.flatten().tolist())
    assert len(numbers) == 1, f"a mixture of {sorted(numbers)}"
    return numbers.pop()


def steps(folder: RunFolder) -> list[str]:
    return sorted(path.name for path in folder.checkpoints.iterdir())
