"""Run an action on rank 0 or on all ranks and raise its error on every rank, so that none waits for one that failed."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from phalanx.errors import InputError

T = TypeVar("T")


def on_rank_zero(action: Callable[[], T], group: dist.ProcessGroup | None) -> T:
    """Run an action on rank 0 of the group alone. Return its result, or raise the error it meets, on every rank.
    Without a group this process is the one.
    """
    if group is None:
        return action()
    outcome: list[Any] = [None, None]
    if group.rank() == 0:
        try:
            outcome[0] = action()
        except (InputError, OSError) as error:
            outcome[1] = error

    # An error travels as a result does: no rank is left waiting for one that failed.
    dist.broadcast_object_list(outcome, group=group, group_src=0)
    if outcome[1]:
        raise outcome[1]
    result: T = outcome[0]
    return result


def on_every_rank(action: Callable[[int, int], None], group: dist.ProcessGroup | None) -> None:
    """Let every rank of the group do its part, given its number and how many they are. The first one's error is raised
    on all.
    """
    if group is None:
        action(0, 1)
        return
    failure = None
    try:
        action(group.rank(), group.size())
    except (InputError, OSError) as error:
        failure = error

    # A rank that has failed comes here too: the others wait for what it gathers.
    if met := [each for each in gather_objects(failure, group) if each]:
        raise met[0]


def gather_objects(value: T, group: dist.ProcessGroup | None) -> list[T]:
    """Return the value of each rank of the group, in their order, on every rank."""
    if group is None:
        return [value]
    values: list[Any] = [None] * group.size()
    dist.all_gather_object(values, value, group=group)
    return values
