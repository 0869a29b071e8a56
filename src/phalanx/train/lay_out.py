"""Check that a layout fits the model, the batch and the processes there are, and fill in what it leaves open."""

from phalanx.config import Config, LayoutConfig
from phalanx.errors import InputError
from phalanx.parallel import division
from phalanx.train.schedule import batch_sizes


def processes_of(layout: LayoutConfig) -> int:
    """Processes that a layout asks for, with one replica where it leaves that open."""
    return layout.tp * layout.cp * layout.pp * max(layout.dp, 1)


def lay_out(config: Config, processes: int) -> Config:
    """The configuration with its layout made definite for so many processes; InputError for what does not fit."""
    layout = _sized(config.layout, processes)
    division.check(config.model, layout.tp)
    _check_sequence(config, layout)
    _check_stages(config, layout)
    rows = _rows(config, layout)
    micro_batch = min(layout.micro_batch or _share(rows[0], layout), rows[-1])
    if layout.pp > 1:
        for each in rows:
            _check_micro_batches(each, micro_batch, layout)
    sharding = layout.shard if (layout.shard_ways or layout.dp * layout.cp) > 1 else "none"
    definite = layout.model_copy(update={"micro_batch": micro_batch, "shard": sharding})
    return config.model_copy(update={"layout": definite})


def _sized(layout: LayoutConfig, processes: int) -> LayoutConfig:
    """With its number of replicas."""
    model = layout.tp * layout.cp * layout.pp
    if processes % model or (layout.dp and model * layout.dp != processes):
        sizes = f"layout.tp={layout.tp} × cp={layout.cp} × pp={layout.pp}" + f" × dp={layout.dp}" * bool(layout.dp)
        raise InputError(
            f"{sizes} = {processes_of(layout)} does not fit {processes} process{'es' * (processes > 1)}; start "
            f"{processes_of(layout)}, or change a size (layout.dp=0 takes what is left)"
        )
    dp = processes // model
    ways = layout.shard_ways
    if ways and (ways % layout.cp or (dp * layout.cp) % ways):
        raise InputError(
            f"layout.shard_ways={ways} must be a multiple of layout.cp={layout.cp} and divide "
            f"dp × cp = {dp * layout.cp}"
        )
    return layout.model_copy(update={"dp": dp})


def parts_of(tp: int, cp: int, sequence_parallel: bool) -> int:
    """In how many equal parts a layout cuts a sequence."""
    return (2 * cp if cp > 1 else 1) * (tp if sequence_parallel else 1)


def _check_sequence(config: Config, layout: LayoutConfig) -> None:
    parts = parts_of(layout.tp, layout.cp, layout.sequence_parallel)
    if config.data.sequence % parts:
        near = max(parts, config.data.sequence // parts * parts)
        splits = layout.tp > 1 and layout.cp == 1 and layout.sequence_parallel
        other = ", or layout.sequence_parallel=false" if splits else ""
        raise InputError(
            f"data.sequence={config.data.sequence} is no multiple of {parts} (2 × cp × tp parts of a sequence); "
            f"use {near}{other}"
        )

    if layout.cp > 1 and layout.context == "ring" and config.model.attention_dropout:
        raise InputError(
            f"model.attention_dropout={config.model.attention_dropout:g} needs all keys in one place; "
            "use layout.context=gather, or 0"
        )


def _check_stages(config: Config, layout: LayoutConfig) -> None:
    count = division.stages_of(layout)
    if count > config.model.layers:
        raise InputError(
            f"layout.pp={layout.pp} makes {count} stages, but model.layers={config.model.layers}; "
            f"use at most {config.model.layers} stages"
        )
    if (layout.schedule == "interleaved") != (layout.chunks > 1):
        raise InputError(
            f"layout.schedule={layout.schedule} with layout.chunks={layout.chunks}: only interleaved takes 2 or more"
        )
    if layout.schedule == "zbv" and layout.shard == "zero3":
        raise InputError("layout.schedule=zbv needs its weights in both halves of backward; use layout.shard=zero2")
    if layout.schedule == "zbv" and config.train.compile == "on":
        raise InputError("layout.schedule=zbv takes no compiled blocks; use train.compile=off, or 1f1b")
    if layout.pp == 1 and layout.schedule != "1f1b":
        raise InputError(f"layout.schedule={layout.schedule} is for pipelines; set layout.pp above 1")


def _rows(config: Config, layout: LayoutConfig) -> list[int]:
    """Sequences of one replica in a step: all numbers that occur, rising."""
    sizes = batch_sizes(config.train)
    for size in sizes:
        if size % layout.dp:
            key = "batch" if size == config.train.batch else "rampup"
            raise InputError(f"train.{key}: {size} sequences do not divide among layout.dp={layout.dp} replicas")
    return [size // layout.dp for size in sizes]


def _share(rows: int, layout: LayoutConfig) -> int:
    """A micro-batch that keeps a pipeline busy: four for each rank, or as near as divides."""
    if layout.pp == 1:
        return rows
    wanted = min(rows, 4 * layout.pp)
    return next(rows // count for count in range(wanted, 0, -1) if rows % count == 0)


def fills(rows: int, size: int, pp: int, schedule: str) -> bool:
    """Whether micro-batches of `size` out of a replica's `rows` sequences keep a pipeline going."""
    count = rows // size
    return not rows % size and count >= pp and not (schedule == "interleaved" and count % pp)


def _check_micro_batches(rows: int, size: int, layout: LayoutConfig) -> None:
    if not fills(rows, size, layout.pp, layout.schedule):
        raise InputError(
            f"a replica's {rows} sequences make {rows / size:g} micro-batches of layout.micro_batch={size}; a pipeline "
            f"of {layout.pp} takes a whole number, at least {layout.pp}, interleaved a multiple: change train.batch, "
            "train.rampup or layout.micro_batch"
        )
