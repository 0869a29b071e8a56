"""Whether a layout fits a model, a batch and some processes: one judgement, for the trainer and the planner."""

from phalanx.config import Config, LayoutConfig
from phalanx.models.family import spec_of
from phalanx.parallel import placement
from phalanx.train.layouts import filled, fills, parts_of, processes_of, ranks_of_replica, rows_together
from phalanx.train.schedule import batch_sizes

FEW = 8  # numbers that are named of those that would do


def layout_misfit(config: Config, processes: int) -> str:
    """Return why a configuration's layout does not fit so many processes, with what would do; "" if it fits.

    The configuration is definite but for its layout's `dp` and `micro_batch`.
    """
    if reason := _sizes(config.layout, processes):
        return reason
    layout = filled(config, processes).layout
    checks = _tensor, _sequence, _chunks, _stages, _replicas, _questions, _micro_batches
    return next(filter(None, (check(config, layout) for check in checks)), "")


def _sizes(layout: LayoutConfig, processes: int) -> str:
    replica = ranks_of_replica(layout)
    if processes % replica or (layout.dp and replica * layout.dp != processes):
        sizes = f"layout.tp={layout.tp} × cp={layout.cp} × pp={layout.pp}" + f" × dp={layout.dp}" * bool(layout.dp)
        return (
            f"{sizes} = {processes_of(layout)} does not fit {processes} process{'es' * (processes > 1)}; start "
            f"{processes_of(layout)}, or change a size (layout.dp=0 takes what is left)"
        )
    ways, data = layout.shard_ways, processes // layout.tp // layout.pp
    if ways and (ways % layout.cp or data % ways):
        fits = _listed([n for n in range(layout.cp, data + 1, layout.cp) if data % n == 0])
        return (
            f"layout.shard_ways={ways} must be a multiple of layout.cp={layout.cp} and divide dp × cp = {data}; "
            f"use {fits}, or 0 for all"
        )
    return ""


def _tensor(config: Config, layout: LayoutConfig) -> str:
    return placement.tensor_misfit(spec_of(config.model), layout.tp, config.model.pad_vocab_to)


def _sequence(config: Config, layout: LayoutConfig) -> str:
    parts = parts_of(layout.tp, layout.cp, layout.sequence_parallel)
    if config.data.sequence % parts:
        near = max(parts, config.data.sequence // parts * parts)
        splits = layout.tp > 1 and layout.sequence_parallel
        words = [f"2 × layout.cp={layout.cp}"] * (layout.cp > 1) + [f"layout.tp={layout.tp}"] * splits
        other = ", or layout.sequence_parallel=false" if splits and layout.cp == 1 else ""
        return (
            f"data.sequence={config.data.sequence} is no multiple of {parts} ({' × '.join(words)} equal parts); "
            f"use {near}{other}"
        )
    if layout.cp > 1 and layout.context == "ring" and config.model.attention_dropout:
        return (
            f"model.attention_dropout={config.model.attention_dropout:g} needs all keys in one place; "
            "use layout.context=gather, or 0"
        )
    return ""


def _chunks(config: Config, layout: LayoutConfig) -> str:
    """Return what is wrong with the chunks: the interleaved schedule has several stages a process, and no other has."""
    schedule, chunks, most = layout.schedule, layout.chunks, len(spec_of(config.model).blocks) // layout.pp
    if schedule == "interleaved" and chunks == 1:
        would = f"layout.chunks=2 to {most}" if most > 2 else "layout.chunks=2" if most == 2 else "1f1b"
        return f"layout.schedule=interleaved has several stages a process, but layout.chunks=1; use {would}"
    if schedule != "interleaved" and chunks > 1:
        return (
            f"layout.chunks={chunks} is for layout.schedule=interleaved, not {schedule}; use that, or layout.chunks=1"
        )
    return ""


def _stages(config: Config, layout: LayoutConfig) -> str:
    count, layers = placement.stage_count(layout), len(spec_of(config.model).blocks)
    if count > layers:
        each = count // layout.pp
        would = f"layout.pp={layers // each} at most" if layers >= each else f"model.layers={count} or more"
        return (
            f"layout.pp={layout.pp} makes {count} stages{f', {each} a process' * (each > 1)}, but "
            f"model.layers={layers}; use {would}"
        )
    if layout.schedule == "zbv" and layout.shard == "zero3":
        return "layout.schedule=zbv needs its weights in both halves of backward; use layout.shard=zero2"
    if layout.schedule == "zbv" and config.train.compile == "on":
        return "layout.schedule=zbv takes no compiled blocks; use train.compile=off, or 1f1b"
    if layout.pp == 1 and layout.schedule != "1f1b":
        return f"layout.schedule={layout.schedule} is for pipelines; set layout.pp above 1"
    return ""


def _replicas(config: Config, layout: LayoutConfig) -> str:
    """Return what is wrong with a batch: every one of a run must divide among the replicas."""
    sizes, dp = batch_sizes(config.train), layout.dp
    wrong = next((size for size in (config.train.batch, *sizes) if size % dp), None)
    if wrong is None:
        return ""

    replicas = _listed([n for n in range(1, dp) if not any(size % n for size in sizes)])
    if config.train.batch % dp:
        near = [n for n in (wrong // dp * dp, -(-wrong // dp) * dp) if n]
        key, would = f"train.batch={wrong}", f"train.batch={_listed(near)}"
    else:
        key = f"train.rampup={list(config.train.rampup)}"
        would = f"a first batch and an increment that are multiples of {dp}"
    return f"{key}: {wrong} sequences do not divide among layout.dp={dp} replicas; use {would}, or layout.dp={replicas}"


def _questions(config: Config, layout: LayoutConfig) -> str:
    """Return what parts a question: its candidates are in one micro-batch, as their scores meet in the loss."""
    together, rows = rows_together(config), [batch // layout.dp for batch in batch_sizes(config.train)]
    if wrong := next((count for count in rows if count % together), 0):
        return (
            f"a replica's {wrong} sequences part a question's {together} candidates; use a train.batch that is a "
            f"multiple of {together * layout.dp}"
        )
    if layout.micro_batch % together:
        return (
            f"layout.micro_batch={layout.micro_batch} parts a question's {together} candidates; use a multiple of "
            f"{together}"
        )
    return ""


def _micro_batches(config: Config, layout: LayoutConfig) -> str:
    """Return what is wrong with micro-batches: a replica's must fill the pipeline, in every batch of a ramp-up too."""
    pp, schedule, size = layout.pp, layout.schedule, layout.micro_batch
    rows = [batch // layout.dp for batch in batch_sizes(config.train)]
    wrong = next((count for count in rows if not fills(count, size, pp, schedule)), None) if pp > 1 else None
    if wrong is None:
        return ""

    fits = [n for n in range(1, rows[0] + 1) if all(fills(count, n, pp, schedule) for count in rows)]
    if fits:
        would = f"layout.micro_batch={_listed(fits)}"
    elif len(rows) == 1:
        would = f"train.batch={pp * layout.dp} or a multiple"
    else:
        would = "a train.rampup of larger steps"
    count = f"a multiple of {pp}" if schedule == "interleaved" else f"a whole number, at least {pp}"
    return (
        f"a replica's {wrong} sequences make {wrong / size:g} micro-batches of layout.micro_batch={size}; a pipeline "
        f"of {pp} takes {count}: use {would}"
    )


def _listed(numbers: list[int]) -> str:
    """Return numbers as words: all, or of a long list the first ones and the last."""
    if len(numbers) > FEW:
        return f"{', '.join(map(str, numbers[: FEW - 1]))}, … or {numbers[-1]}"
    *most, last = map(str, numbers)
    return f"{', '.join(most)} or {last}" if most else last
