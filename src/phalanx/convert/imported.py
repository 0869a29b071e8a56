"""A run made of another program's model, whole or not at all."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from phalanx import durable
from phalanx.config import Config
from phalanx.run.checkpoint import Checkpointer
from phalanx.run.folder import RunFolder
from phalanx.run.import_record import ImportRecord

MOST = 16  # names of tensors that are shown one by one


@dataclass(frozen=True)
class Imported:
    """A run that was made of a folder: what its model lacked and got at random, what of the folder has no place in it,
    and what is done otherwise there.
    """

    run: Path
    tensors: int
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    otherwise: tuple[str, ...] = ()

    def lines(self, heads: bool = True) -> list[str]:
        """Return lines for a terminal. Without `heads` they are silent about weights that are random."""
        lines = [f"{self.run}: {self.tensors} tensors"]
        if self.missing and heads:
            lines.append(f"not in the folder, so initialised at random: {', '.join(self.missing)}")
        if self.unused:
            lines.append(f"in the folder, but of no use here: {', '.join(_in_few(self.unused))}")
        return [*lines, *self.otherwise]


def _in_few(names: Sequence[str]) -> Iterator[str]:
    """Yield names for a terminal, of many the first words alone, such as vision_tower.*, each with their number."""
    first_words = Counter(name.partition(".")[0] for name in names)
    for name in names if len(names) <= MOST else first_words:
        shown = name if name.isprintable() else repr(name)
        yield shown if len(names) <= MOST else f"{shown}.* ({first_words[name]})"


def write_run(
    out: Path, config: Config, tokenizer: str, shapes: Mapping[str, Tensor], read: Callable[[str], Tensor],
    record: ImportRecord | None = None,
) -> None:  # fmt: skip
    """Make a run folder with a checkpoint of step 0, whose tensors have `shapes` and are asked of `read` in that order.

    InputError where `out` is there already. What fails leaves nothing there.
    """
    with durable.new_folder(out) as made:
        run = RunFolder.create(made, config, tokenizer)
        if record:
            record.write(run)
        Checkpointer(run).import_weights(shapes, read)
