"""Check that a layout fits the model, the batch and the processes there are, and fill in what it leaves open."""

from phalanx.config import Config, LayoutConfig
from phalanx.errors import InputError
from phalanx.models.family import spec_of
from phalanx.parallel import division
from phalanx.train.schedule import batch_sizes

FEW = 8  # numbers that are named of those that would do


def processes_of(layout: LayoutConfig) -> int:
    """Processes that a layout asks for, with one replica where it leaves that open."""
    return layout.tp * layout.cp * layout.pp * max(layout.dp, 1)


def lay_out(config: Config, processes: int) -> Config:
    """The configuration with its layout made definite for so many processes; InputError for what does not fit."""
    layout = _sized(config.layout, processes)
    division.check(spec_of(config.model), layout.tp, config.model.pad_vocab_to)
    _check_sequence(config, layout)
    _check_stages(config, layout)
    rows = _rows(config, layout)
    micro_batch = min(layout.micro_batch or _share(rows[0], layout), rows[-1])
    if layout.pp > 1:
        _check_micro_batches(rows, micro_batch, layout)
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
    ways, data = layout.shard_ways, dp * layout.cp
    if ways and (ways % layout.cp or data % ways):
        fits = _listed([n for n in range(layout.cp, data + 1, layout.cp) if data % n == 0])
        raise InputError(
            f"layout.shard_ways={ways} must be a multiple of layout.cp={layout.cp} and divide dp × cp = {data}; "
            f"use {fits}, or 0 for all"
        )
    return layout.model_copy(update={"dp": dp})


def parts_of(tp: int, cp: int, sequence_parallel: bool) -> int:
    """In how many equal parts a layout cuts a sequence."""
    return (2 * cp if cp > 1 else 1) * (tp if sequence_parallel else 1)


def _check_sequence(config: Config, layout: LayoutConfig) -> None:
    parts = parts_of(layout.tp, layout.cp, layout.sequence_parallel)
    if config.data.sequence % parts:
        near = max(parts, config.data.sequence // parts * parts)
        splits = layout.tp > 1 and layout.sequence_parallel
        words = [f"2 × layout.cp={layout.cp}"] * (layout.cp > 1) + [f"layout.tp={layout.tp}"] * splits
        other = ", or layout.sequence_parallel=false" if splits and layout.cp == 1 else ""
        raise InputError(
            f"data.sequence={config.data.sequence} is no multiple of {parts} ({' × '.join(words)} equal parts); "
            f"use {near}{other}"
        )

    if layout.cp > 1 and layout.context == "ring" and config.model.attention_dropout:
        raise InputError(
            f"model.attention_dropout={config.model.attention_dropout:g} needs all keys in one place; "
            "use layout.context=gather, or 0"
        )


def _check_stages(config: Config, layout: LayoutConfig) -> None:
    _check_chunks(config, layout)
    count, layers = division.stages_of(layout), config.model.layers
    if count > layers:
        each = count // layout.pp
        would = f"layout.pp={layers // each} at most" if layers >= each else f"model.layers={count} or more"
        raise InputError(
            f"layout.pp={layout.pp} makes {count} stages{f', {each} a process' * (each > 1)}, but "
            f"model.layers={layers}; use {would}"
        )
    if layout.schedule == "zbv" and layout.shard == "zero3":
        raise InputError("layout.schedule=zbv needs its weights in both halves of backward; use layout.shard=zero2")
    if layout.schedule == "zbv" and config.train.compile == "on":
        raise InputError("layout.schedule=zbv takes no compiled blocks; use train.compile=off, or 1f1b")
    if layout.pp == 1 and layout.schedule != "1f1b":
        raise InputError(f"layout.schedule={layout.schedule} is for pipelines; set layout.pp above 1")


def _check_chunks(config: Config, layout: LayoutConfig) -> None:
    """One schedule has several stages a process, and no other."""
    schedule, chunks, most = layout.schedule, layout.chunks, config.model.layers // layout.pp
    if schedule == "interleaved" and chunks == 1:
        would = f"layout.chunks=2 to {most}" if most > 2 else "layout.chunks=2" if most == 2 else "1f1b"
        raise InputError(f"layout.schedule=interleaved has several stages a process, but layout.chunks=1; use {would}")
    if schedule != "interleaved" and chunks > 1:
        raise InputError(
            f"layout.chunks={chunks} is for layout.schedule=interleaved, not {schedule}; use that, or layout.chunks=1"
        )


def _rows(config: Config, layout: LayoutConfig) -> list[int]:
    """Sequences of one replica in a step: all numbers that occur, rising."""
    sizes, dp = batch_sizes(config.train), layout.dp
    wrong = next((size for size in (config.train.batch, *sizes) if size % dp), None)
    if wrong is not None:
        whole = config.train.batch % dp == 0
        key = f"train.rampup={list(config.train.rampup)}" if whole else f"train.batch={wrong}"
        near = [n for n in (wrong // dp * dp, -(-wrong // dp) * dp) if n]
        would = (
            f"a first batch and an increment that are multiples of {dp}" if whole else f"train.batch={_listed(near)}"
        )
        replicas = _listed([n for n in range(1, dp) if not any(size % n for size in sizes)])
        raise InputError(
            f"{key}: {wrong} sequences do not divide among layout.dp={dp} replicas; use {would}, or "
            f"layout.dp={replicas}"
        )
    return [size // dp for size in sizes]


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


def _check_micro_batches(rows: list[int], size: int, layout: LayoutConfig) -> None:
    """Raise InputError, with the sizes that would do, unless micro-batches of `size` fill a pipeline in every step.

    `rows` are the numbers of sequences that a replica has in a step, more than one where the batch is ramped up.
    """
    pp, schedule = layout.pp, layout.schedule
    wrong = next((each for each in rows if not fills(each, size, pp, schedule)), None)
    if wrong is None:
        return
    fits = [n for n in range(1, rows[0] + 1) if all(fills(each, n, pp, schedule) for each in rows)]
    if fits:
        would = f"layout.micro_batch={_listed(fits)}"
    elif len(rows) == 1:
        would = f"train.batch={pp * layout.dp} or a multiple"
    else:
        would = "a train.rampup of larger steps"
    count = f"a multiple of {pp}" if schedule == "interleaved" else f"a whole number, at least {pp}"
    raise InputError(
        f"a replica's {wrong} sequences make {wrong / size:g} micro-batches of layout.micro_batch={size}; a pipeline "
        f"of {pp} takes {count}: use {would}"
    )


def _listed(numbers: list[int]) -> str:
    """A few numbers of many, the ends of a long list."""
    if len(numbers) > FEW:
        return f"{', '.join(map(str, numbers[: FEW - 1]))}, … or {numbers[-1]}"
    *most, last = map(str, numbers)
    return f"{', '.join(most)} or {last}" if most else last
