"""The state of a process: its stacks, and from torch's flight recorder the collectives that it has begun."""

import json
import sys
import threading
import time
import traceback
from typing import Any, TypedDict

import torch._C._distributed_c10d as c10d
import torch.distributed as dist
from torch.distributed.distributed_c10d import _world

# the recorder of gloo, and that of NCCL where torch was built with it
_DUMPS = [getattr(c10d, name) for name in ("_dump_fr_trace_json", "_dump_nccl_trace_json") if hasattr(c10d, name)]


class Operation(TypedDict):
    """A collective that was begun `age` seconds ago and has not ended: the `number`-th of its group, counted from 1, or
    0 for a message.
    """

    group: str
    axis: str
    ranks: list[int]
    number: int
    what: str
    age: float


class ProcessState(TypedDict):
    """The state of a process, as JSON. `begun` counts the collectives that it has begun, by group."""

    process: str
    still: float  # seconds for which its main thread has not moved
    pending: list[Operation]
    begun: dict[str, int]
    stacks: dict[str, list[str]]  # by thread, innermost last; idle ones left out


def process_state(process: str, still: float) -> ProcessState:
    """Describe this process, called `process`, whose main thread has not moved for `still` seconds."""
    members = {group.group_name: dist.get_process_group_ranks(group) for group in list(_world.pg_map)}
    entries = [each for dump in _DUMPS for each in json.loads(dump()).get("entries", [])]
    begun: dict[str, int] = {}
    for entry in entries:
        if not entry["is_p2p"]:
            begun[_group(entry)] = max(begun.get(_group(entry), 0), entry["collective_seq_id"])

    pending = [
        _operation(entry, members.get(entry["process_group"][0], []))
        for entry in entries
        if not entry["retired"] and entry["state"] != "completed"
    ]
    return ProcessState(process=process, still=still, pending=pending, begun=begun, stacks=_stacks())


def progress_marker() -> tuple[object, ...]:
    """Return a value that changes with this process's progress: its collectives' numbers, its main thread's place."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    groups: list[Any] = list(_world.pg_map)
    return id(frame), frame and frame.f_lasti, *(group._get_sequence_number_for_group() for group in groups)


def _group(entry: dict[str, Any]) -> str:
    backend = entry["profiling_name"].partition(":")[0]
    return f"{backend} {entry['process_group'][0]}"


def _operation(entry: dict[str, Any], ranks: list[int]) -> Operation:
    tensors = ", ".join(
        f"{dtype.lower()} {size}" for dtype, size in zip(entry["input_dtypes"], entry["input_sizes"], strict=False)
    )
    return Operation(
        group=_group(entry),
        axis={"default_pg": "world"}.get(entry["process_group"][1], entry["process_group"][1].removeprefix("mesh_")),
        ranks=ranks,
        number=0 if entry["is_p2p"] else entry["collective_seq_id"],
        what=entry["profiling_name"].partition(":")[2] + (f" of {tensors}" if tensors else ""),
        age=time.time() - entry["time_created_ns"] / 1e9,
    )


def _stacks() -> dict[str, list[str]]:
    """Return where each thread is, without a look into the source: the disk may be what hangs."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    stacks = {}
    for ident, frame in sys._current_frames().items():
        walked = traceback.StackSummary.extract(traceback.walk_stack(frame), lookup_lines=False)
        name = names.get(ident, f"thread {ident}")
        idle = walked[0].filename.endswith(("/threading.py", "concurrent/futures/thread.py"))
        if name == "MainThread" or not (idle or name.startswith("watchdog")):
            ours = [each for each in reversed(walked) if "/typer/" not in each.filename]
            stacks[name] = [f"{each.filename}:{each.lineno} {each.name}" for each in ours]
    return stacks
