"""Trackers as another package would bring them: `log.trackers=tests.strangers.trackers:Diary`."""

from collections.abc import Mapping
from pathlib import Path

from phalanx.config import Config


class Diary:
    """Writes what it is told into a text file of the run."""

    def __init__(self, config: Config, folder: Path, step: int) -> None:
        self.file = (folder / "diary.txt").open("a")
        self.write(f"{config.task} from step {step}")

    def write(self, line: str) -> None:
        self.file.write(line + "\n")

    def start(self, facts: Mapping[str, object]) -> None:
        self.write(f"{facts['parameters']} parameters")

    def train(self, step: int, values: Mapping[str, float]) -> None:
        self.write(f"step {step}: loss {values['loss']:.2f}")

    def valid(self, step: int, values: Mapping[str, float]) -> None:
        self.write(f"held-out loss after step {step}: {values['loss']:.2f}")

    def close(self) -> None:
        self.write("the end")
        self.file.close()


class Unlucky(Diary):
    """Its network is gone after the first step."""

    def train(self, step: int, values: Mapping[str, float]) -> None:
        if step > 1:
            raise ConnectionError("no route to host")


class Absent(Diary):
    """Nobody has told it its key."""

    def __init__(self, config: Config, folder: Path, step: int) -> None:
        raise PermissionError("no key")


class Required(Unlucky):
    """The same, of which a run cannot do without."""

    required = True
