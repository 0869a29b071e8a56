"""A pipeline schedule played through: how long a step takes.

1F1B and interleaved 1F1B of Narayanan et al. (arXiv 2104.04473), the zero-bubble V of Qi et al. (arXiv 2401.10241), in
the order in which torch.distributed.pipelining runs them. An operation starts when its rank is free and what it needs
has come from another rank. What waits for what depends on the schedule alone, so that is found once. In the steady
state every pp micro-batches take as long as the pp before, so of long steps the middle is not played.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NamedTuple

Operation = tuple[str, int, int]  # F, B (of the input, and of the weights unless W is apart), W; stage; micro-batch


@dataclass(frozen=True)
class Flow:
    """Seconds of a step's passes, those of a micro-batch's passes on a rank, and who has which stage."""

    seconds: float
    forward: float
    backward: float
    ranks: tuple[int, ...]


@cache
def ranks(schedule: str, pp: int, chunks: int) -> tuple[int, ...]:
    """Return the rank of each stage."""
    if schedule == "zbv":
        return tuple(min(stage, 2 * pp - 1 - stage) for stage in range(2 * pp))
    return tuple(stage % pp for stage in range(pp * chunks))


def order(schedule: str, pp: int, chunks: int, count: int, rank: int) -> list[Operation]:
    """Return the operations of a rank, in order."""
    if schedule == "zbv":
        return [operation for operation in _zbv(pp, max(2 * pp - 1, count), rank) if operation[2] < count]
    rounds = max(1, count // pp)
    turn = count // rounds if chunks > 1 else 1  # micro-batches that pass a chunk before the next has its turn

    def nth(number: int, chunk_of: int) -> tuple[int, int]:
        """Return stage and micro-batch of a rank's nth forward."""
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
    """Yield a rank's operations down one arm of the V and up the other; weights' gradients fill what is left (arXiv
    2401.10241, section 6).
    """
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


class Played(NamedTuple):
    """An operation of a schedule without its duration: numbers of what it waits for, 0 for nothing."""

    before: int  # the rank's previous
    other: int  # what is needed besides
    sent: bool  # from another rank
    which: int  # of the durations: those of all stages' F, then of their B, then of their W


@lru_cache(maxsize=256)
def plan(schedule: str, pp: int, chunks: int, count: int) -> list[Played]:
    """Return all operations, numbered from 1 on, each after all that it waits for."""
    where, last = ranks(schedule, pp, chunks), pp * chunks - 1
    left = [deque(order(schedule, pp, chunks, count, rank)) for rank in range(pp)]
    number: dict[Operation, int] = {}
    before, played = [0] * pp, list[Played]()
    while any(left):
        already = len(played)
        for rank, operations in enumerate(left):
            while operations:
                kind, stage, _ = operation = operations[0]
                need = _need(*operation, last)
                if need and need not in number:
                    break
                sent = need is not None and where[need[1]] != rank
                which = "FBW".index(kind) * len(where) + stage
                played.append(Played(before[rank], number[need] if need else 0, sent, which))
                before[rank] = number[operations.popleft()] = len(played)
        assert len(played) > already, "a schedule that hangs"
    return played


def _need(kind: str, stage: int, batch: int, last: int) -> Operation | None:
    """Return the operation that one waits for, besides the previous one of its rank; None if there is none."""
    if kind == "F":
        return ("F", stage - 1, batch) if stage else None
    if kind == "B":
        return ("B", stage + 1, batch) if stage < last else ("F", stage, batch)
    return "B", stage, batch


@lru_cache(4096)
def simulate(
    schedule: str, pp: int, chunks: int, count: int, forward: tuple[float, ...], backward: tuple[float, ...], hop: float
) -> Flow:
    """Play a step of `count` micro-batches: seconds of each stage's forward and backward, and of a `hop` to the next.

    With zbv half of backward is the weights'.
    """
    where = ranks(schedule, pp, chunks)
    if pp == 1:
        return Flow(count * (sum(forward) + sum(backward)), sum(forward), sum(backward), where)
    most = 3 * pp + count % pp
    played = count if count <= most + pp or (chunks > 1 and count % pp) else most
    seconds = _seconds(schedule, pp, chunks, played, forward, backward, hop)
    if played < count:
        more = _seconds(schedule, pp, chunks, played + pp, forward, backward, hop)
        seconds += (count - played) / pp * (more - seconds)

    busy_forward, busy_backward = [0.0] * pp, [0.0] * pp
    for rank, out, home in zip(where, forward, backward, strict=True):
        busy_forward[rank] += out
        busy_backward[rank] += home
    return Flow(seconds, max(busy_forward), max(busy_backward), where)


def _seconds(
    schedule: str, pp: int, chunks: int, count: int, forward: tuple[float, ...], backward: tuple[float, ...], hop: float
) -> float:
    share = 0.5 if schedule == "zbv" else 1.0
    durations = [*forward, *(share * b for b in backward), *((1 - share) * b for b in backward)]
    end = [0.0]
    for before, other, sent, which in plan(schedule, pp, chunks, count):
        free, come = end[before], end[other] + hop if sent else end[other]
        end.append((come if come > free else free) + durations[which])
    return max(end)
