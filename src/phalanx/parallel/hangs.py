"""What a process can tell of where it is, and what the answers of all say about a hang.

Torch's flight recorder knows the collectives that a process began and which of them have not ended. Who has begun one
that others of its group have not has arrived there; the others are late, and of these the ones that wait nowhere
themselves are the cause. Messages between stages of a pipeline are not recorded on CPUs: there the stacks alone tell.
"""

import json
import sys
import threading
import time
import traceback
from collections.abc import Iterable
from typing import TypedDict

import torch._C._distributed_c10d as c10d
import torch.distributed as dist
from torch.distributed.distributed_c10d import _world

# the flight recorder of gloo, and that of NCCL where torch was built with it
_DUMPS = [getattr(c10d, name) for name in ("_dump_fr_trace_json", "_dump_nccl_trace_json") if hasattr(c10d, name)]


class Operation(TypedDict):
    """A collective that was begun `age` seconds ago and has not ended, the `number`-th of its group."""

    group: str
    axis: str
    ranks: list[int]
    number: int
    what: str
    age: float


class Answer(TypedDict):
    """What a process tells of itself. `begun` counts the collectives it has begun, by group."""

    process: str
    still: float  # seconds for which its main thread has not moved
    pending: list[Operation]
    begun: dict[str, int]
    stacks: dict[str, list[str]]  # by thread, innermost last; idle ones left out


def answer(process: str, still: float) -> Answer:
    """Of this process, by name, whose main thread has not moved for so many seconds."""
    pending, begun = _operations()
    return Answer(process=process, still=still, pending=pending, begun=begun, stacks=_stacks())


def diagnose(answers: dict[int, Answer], silent: dict[int, str], timeout: float) -> str:
    """Who has been waiting for whom for `timeout` seconds, and where the late ones are; nothing if nobody has. `silent`
    are the processes that gave no answer.
    """
    lines, late, arrived = [], set(silent), set()
    for operation in _first_awaited(answers, silent, timeout):
        missing = _missing(operation, answers, silent)
        there = [number for number in operation["ranks"] if number not in missing]
        late.update(missing)
        arrived.update(there)
        among = f"{operation['what']} among {_ranks(operation['ranks'])} ({operation['axis']})"
        lines.append(f"{among}: {_ranks(there)} arrived {operation['age']:.0f} s ago, {_ranks(missing)} did not")
    if not lines:
        lines, late = _unlike(answers, timeout)
    if not lines:  # messages, which are not recorded on CPUs
        waiting = {n for n, answer in answers.items() if answer["still"] >= timeout and _waits(answer)}
        late = answers.keys() - waiting or waiting
        lines = [f"a message of another stage: {_ranks(waiting)} waited for {timeout:.0f} s"] if waiting else []
    if not lines:
        return ""
    causes = (late | set(silent)) - arrived or late
    stacks = [told(number, answers[number]) for number in sorted(causes - silent.keys())[:8]]
    stacks += [
        f"rank {number} ({process}) does not answer: it was stopped, it or its machine is gone, or it is in code that "
        "lets no other thread run" for number, process in sorted(silent.items())[:8]
    ]  # fmt: skip
    return "\n  ".join([f"the run hangs at {lines[0]}", *(f"and at {line}" for line in lines[1:8]), *stacks])


def _first_awaited(answers: dict[int, Answer], silent: dict[int, str], timeout: float) -> list[Operation]:
    """Of every group the first collective that somebody has not reached `timeout` seconds after another."""
    first: dict[str, Operation] = {}
    for operation in (each for answer in answers.values() for each in answer["pending"]):
        known = first.get(operation["group"])
        if known and known["number"] <= operation["number"]:
            continue
        if operation["age"] >= timeout and _missing(operation, answers, silent):
            first[operation["group"]] = operation
    return list(first.values())


def _missing(operation: Operation, answers: dict[int, Answer], silent: dict[int, str]) -> list[int]:
    group, number = operation["group"], operation["number"]
    return [n for n in operation["ranks"] if n in silent or answers[n]["begun"].get(group, 0) < number]


def _unlike(answers: dict[int, Answer], timeout: float) -> tuple[list[str], set[int]]:
    """Different collectives that ranks of a group believe to be the same one."""
    found: dict[tuple[str, int], dict[str, set[int]]] = {}
    for number, answer in answers.items():
        for each in answer["pending"]:
            if each["age"] >= timeout:
                kinds = found.setdefault((each["group"], each["number"]), {})
                kinds.setdefault(f"{each['what']} ({each['axis']})", set()).add(number)
    unlike = [kinds for kinds in found.values() if len(kinds) > 1]
    lines = [", ".join(f"{_ranks(ranks)} at {what}" for what, ranks in kinds.items()) for kinds in unlike]
    return [f"different collectives: {line}" for line in lines], {
        n for kinds in unlike for n in set().union(*kinds.values())
    }


def _waits(answer: Answer) -> bool:
    """Whether a process is at a message."""
    innermost = answer["stacks"].get("MainThread", [""])[-1]
    return "torch/distributed" in innermost or "phalanx/parallel" in innermost or bool(answer["pending"])


def _ranks(numbers: Iterable[int]) -> str:
    names = [str(number) for number in sorted(numbers)]
    return f"rank{'s' * (len(names) > 1)} {', '.join(names[:8])}{' and more' * (len(names) > 8)}"


def told(number: int, answer: Answer) -> str:
    lines = [f"rank {number} ({answer['process']}) is at"]
    for thread, frames in answer["stacks"].items():
        lines += [f"  {thread}:", *(f"    {frame}" for frame in frames[-16:])]
    return "\n  ".join(lines)


def place() -> tuple[object, ...]:
    """What is different when this process has moved: its collectives, or where its main thread is."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    begun = tuple(
        group._get_sequence_number_for_group()  # type: ignore[attr-defined]
        for group in list(_world.pg_map)
    )
    return id(frame), frame and frame.f_lasti, begun


def _stacks() -> dict[str, list[str]]:
    """Where each thread is, without reading its source: the disk may be what hangs."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    stacks = {}
    for ident, frame in sys._current_frames().items():
        walked = traceback.StackSummary.extract(traceback.walk_stack(frame), lookup_lines=False)
        lines = [f"{each.filename}:{each.lineno} {each.name}" for each in reversed(walked)]
        name = names.get(ident, f"thread {ident}")
        idle = walked[0].filename.endswith(("/threading.py", "concurrent/futures/thread.py"))
        if name == "MainThread" or not (idle or name == "watchdog"):
            stacks[name] = lines
    return stacks


def _operations() -> tuple[list[Operation], dict[str, int]]:
    """Of the flight recorder: what was begun and has not ended, and how many collectives were begun, by group."""
    members = {group.group_name: dist.get_process_group_ranks(group) for group in list(_world.pg_map)}
    pending: list[Operation] = []
    begun: dict[str, int] = {}
    for entry in (each for dump in _DUMPS for each in json.loads(dump()).get("entries", [])):
        backend, _, what = entry["profiling_name"].partition(":")
        name, axis = entry["process_group"]
        group = f"{backend} {name}"
        if not entry["is_p2p"]:
            begun[group] = max(begun.get(group, 0), entry["collective_seq_id"])
        if not entry["retired"] and entry["state"] != "completed":
            kind = (
                f"{what} of {entry['input_dtypes'][0].lower()} {entry['input_sizes'][0]}"
                if entry["input_sizes"]
                else what
            )
            pending.append(Operation(
                group=group, axis=axis.removeprefix("mesh_"), ranks=members.get(name, []), what=kind,
                number=0 if entry["is_p2p"] else entry["collective_seq_id"],
                age=time.time() - entry["time_created_ns"] / 1e9,
            ))  # fmt: skip
    return pending, begun
