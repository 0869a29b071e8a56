"""A pipeline schedule played through: how long a step takes, and how many micro-batches are alive where.

1F1B and interleaved 1F1B of Narayanan et al. (arXiv 2104.04473), the zero-bubble V of Qi et al. (arXiv 2401.10241), in
the order in which torch.distributed.pipelining runs them. An operation starts when its rank is free and what it needs
has come from another rank. Which operations can be played together depends on the schedule alone, so that is found
once; then a step is a few numpy operations a wave. In the steady state every pp micro-batches take as long as the pp
before, so of long steps the middle is not played.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Operation = tuple[str, int, int]  # F, B (of the input, and of the weights unless W is apart), W; stage; micro-batch


@dataclass(frozen=True)
class Flow:
    """Seconds of a step's passes, those of a micro-batch's passes on a rank, who has which stage, and how many
    activations of a stage's forward each rank holds at most, counted in micro-batches of one stage."""

    seconds: float
    forward: float
    backward: float
    ranks: tuple[int, ...]
    live: tuple[int, ...]


def ranks(schedule: str, pp: int, chunks: int) -> tuple[int, ...]:
    """The rank of each stage."""
    if schedule == "zbv":
        return tuple(min(stage, 2 * pp - 1 - stage) for stage in range(2 * pp))
    return tuple(stage % pp for stage in range(pp * chunks))


def order(schedule: str, pp: int, chunks: int, count: int, rank: int) -> list[Operation]:
    """What a rank does, in order."""
    if schedule == "zbv":
        return [operation for operation in _zbv(pp, max(2 * pp - 1, count), rank) if operation[2] < count]
    rounds = max(1, count // pp)
    turn = count // rounds if chunks > 1 else 1  # micro-batches that pass a chunk before the next has its turn

    def nth(number: int, chunk_of: int) -> tuple[int, int]:
        """Stage and micro-batch of a rank's nth forward."""
        lap, within = divmod(number, turn * chunks)
        chunk, place = divmod(within, turn)
        return (chunk if chunk_of > 0 else chunks - 1 - chunk) * pp + rank, lap * turn + place

    warm = (chunks - 1) * turn + (2 if chunks > 1 else 1) * (pp - 1 - rank)
    total = count * chunks
    warm = min(warm, total)
    ahead = [("F", *nth(number, 1)) for number in range(total)]
    back = [("B", *nth(number, -1)) for number in range(total)]
    steady = [operation for pair in zip(ahead[warm:], back, strict=False) for operation in pair]
    return [*ahead[:warm], *steady, *back[total - warm :]]


def _zbv(pp: int, count: int, rank: int) -> Iterator[Operation]:
    """Down one arm of the V and up the other; weights' gradients fill what is left (arXiv 2401.10241, section 6)."""
    near, far = rank, 2 * pp - 1 - rank
    done = {(kind, stage): 0 for kind in "FBW" for stage in (near, far)}

    def do(*what: tuple[str, int]) -> Iterator[Operation]:
        for kind, stage in what:
            yield kind, stage, done[kind, stage]
            done[kind, stage] += 1

    yield from do(*[("F", near)] * (2 * (pp - rank) - 1))
    for _ in range(rank):
        yield from do(("F", far), ("F", near))
    for _ in range(pp - rank):
        yield from do(("F", far), ("B", far), ("W", far))
    while done["F", far] < done["F", near] or done["F", near] < count:
        if done["F", near] < count:
            yield from do(("F", near))
        yield from do(("B", near), ("W", near), ("F", far), ("B", far), ("W", far))
    for _ in range(rank):
        yield from do(("B", near), ("B", far))
    for _ in range(pp - rank):
        yield from do(("B", near), ("W", near))
    for stage in far, near:
        while done["W", stage] < done["B", stage]:
            yield from do(("W", stage))


@dataclass(frozen=True)
class Play:
    """A schedule without its durations: operations by number, a rank's one after another."""

    kinds: NDArray[np.int64]  # index into FBW
    stages: NDArray[np.int64]
    waves: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]]
    live: tuple[int, ...]


@lru_cache(maxsize=256)
def plan(schedule: str, pp: int, chunks: int, count: int) -> Play:
    """Waves of operations, after all that they wait for: numbers, the rank's previous, the other's, whether sent."""
    where, last = ranks(schedule, pp, chunks), pp * chunks - 1
    lists = [order(schedule, pp, chunks, count, rank) for rank in range(pp)]
    number: dict[Operation, int] = {}
    for operations in lists:
        for operation in operations:
            number[operation] = len(number) + 1  # 0 is before all
    size = len(number) + 1
    wave, before, other, sent = [0] * size, [0] * size, [0] * size, [0.0] * size
    ready = [0] * pp
    moved = True
    while moved:
        moved = False
        for rank, operations in enumerate(lists):
            while ready[rank] < len(operations):
                kind, stage, batch = operations[ready[rank]]
                need = _need(kind, stage, batch, last)
                me = number[kind, stage, batch]
                if need and not wave[number[need]]:
                    break
                before[me] = me - 1 if ready[rank] else 0
                other[me] = number[need] if need else 0
                sent[me] = float(bool(need) and where[need[1]] != where[stage]) if need else 0.0
                wave[me] = 1 + max(wave[before[me]], wave[other[me]])
                ready[rank] += 1
                moved = True
    assert all(done == len(operations) for done, operations in zip(ready, lists, strict=True)), "a schedule that hangs"
    kinds = np.array([0, *("FBW".index(kind) for kind, _, _ in number)])
    stages = np.array([0, *(stage for _, stage, _ in number)])
    by_wave = np.argsort(wave, kind="stable")[1:]
    cuts = np.flatnonzero(np.diff(np.array(wave)[by_wave])) + 1
    columns = [np.split(np.array(column)[by_wave], cuts) for column in (before, other, sent)]
    waves = list(zip(np.split(by_wave, cuts), *columns, strict=True))
    return Play(kinds, stages, waves, tuple(_most(operations) for operations in lists))


def _need(kind: str, stage: int, batch: int, last: int) -> Operation | None:
    """What an operation waits for, besides its rank's previous one."""
    if kind == "F":
        return ("F", stage - 1, batch) if stage else None
    if kind == "B":
        return ("B", stage + 1, batch) if stage < last else ("F", stage, batch)
    return "B", stage, batch


def _most(operations: list[Operation]) -> int:
    """Forwards without their end, at most."""
    split = any(kind == "W" for kind, _, _ in operations)
    ends = "W" if split else "B"
    alive = most = 0
    for kind, _, _ in operations:
        alive += (kind == "F") - (kind == ends)
        most = max(most, alive)
    return most


@lru_cache(4096)
def simulate(
    schedule: str, pp: int, chunks: int, count: int, forward: tuple[float, ...], backward: tuple[float, ...], hop: float
) -> Flow:
    """Play a step of `count` micro-batches; seconds of each stage's forward and backward, and of sending to the next.

    With zbv half of backward is the weights'.
    """
    where = ranks(schedule, pp, chunks)
    if pp == 1:
        return Flow(count * (sum(forward) + sum(backward)), sum(forward), sum(backward), where, (1,))
    most = 3 * pp + count % pp
    played = count if count <= most + pp or (chunks > 1 and count % pp) else most
    seconds = _seconds(schedule, pp, chunks, played, forward, backward, hop)
    if played < count:
        more = _seconds(schedule, pp, chunks, played + pp, forward, backward, hop)
        seconds += (count - played) / pp * (more - seconds)
    there, back = (
        max(sum(t for t, r in zip(times, where, strict=True) if r == rank) for rank in range(pp))
        for times in (forward, backward)
    )
    return Flow(seconds, there, back, where, plan(schedule, pp, chunks, played).live)


def _seconds(
    schedule: str, pp: int, chunks: int, count: int, forward: tuple[float, ...], backward: tuple[float, ...], hop: float
) -> float:
    play = plan(schedule, pp, chunks, count)
    share = 0.5 if schedule == "zbv" else 1.0
    durations = np.array([forward, [share * b for b in backward], [(1 - share) * b for b in backward]])
    lasting = durations[play.kinds, play.stages]
    end = np.zeros(len(lasting))
    for ids, before, other, sent in play.waves:
        end[ids] = np.maximum(end[before], end[other] + hop * sent) + lasting[ids]
    return float(end.max())
