"""Decide what a layout leaves open: replicas, rows of a micro-batch, sharding. misfit.py says whether it fits."""

from phalanx.config import Config, LayoutConfig
from phalanx.models.family import spec_of
from phalanx.train.schedule import batch_sizes


def processes_of(layout: LayoutConfig) -> int:
    """Return how many processes a layout asks for, with one replica where it leaves that open."""
    return ranks_of_replica(layout) * max(layout.dp, 1)


def ranks_of_replica(layout: LayoutConfig) -> int:
    """Return how many ranks a replica of the model has."""
    return layout.tp * layout.cp * layout.pp


def parts_of(tp: int, cp: int, sequence_parallel: bool) -> int:
    """Return into how many equal parts a layout cuts a sequence."""
    return (2 * cp if cp > 1 else 1) * (tp if sequence_parallel else 1)


def rows_together(config: Config) -> int:
    """Return how many rows of a batch belong together: the candidates of a question, else 1."""
    answer = spec_of(config.model).answer
    return max(1, answer.candidates) if answer else 1


def fills(rows: int, size: int, pp: int, schedule: str) -> bool:
    """Return whether micro-batches of `size` out of a replica's `rows` sequences keep a pipeline going."""
    count = rows // size
    return not rows % size and count >= pp and not (schedule == "interleaved" and count % pp)


def filled(config: Config, processes: int) -> Config:
    """Return the configuration with its layout's open keys decided: replicas, sequences of a micro-batch, sharding."""
    layout = config.layout
    dp = processes // ranks_of_replica(layout)
    rows = [size // dp for size in batch_sizes(config.train)]
    micro_batch = min(layout.micro_batch or _share(rows[0], layout, rows_together(config)), rows[-1])
    # shard_ways=0 stays, which is all: a number would be kept where the run goes on with more replicas
    shard = layout.shard if (layout.shard_ways or dp * layout.cp) > 1 else "none"
    return config.updated(layout={"dp": dp, "micro_batch": micro_batch, "shard": shard})


def _share(rows: int, layout: LayoutConfig, together: int) -> int:
    """Return the rows of a micro-batch that keep a pipeline busy: four micro-batches for each rank, or as near as
    divides, and `together` rows uncut.
    """
    if layout.pp == 1:
        return rows
    wanted = min(rows, 4 * layout.pp)
    return next((rows // count for count in range(wanted, 0, -1) if rows % (count * together) == 0), rows)
