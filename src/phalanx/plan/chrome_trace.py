"""A traced step as a Chrome trace, for ui.perfetto.dev, with the time that each operation would take.

An operation takes what the roofline of the cluster's GPU says; a message, what its links say. Messages along dp go on
beside the compute, each after the one before; all others are waited for. What a rank of a pipeline waits for its
neighbours is not in it: the trace is of one rank. Blocks are uncompiled, as they are traced.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from phalanx import durable
from phalanx.config import LayoutConfig
from phalanx.plan.cluster import Cluster
from phalanx.plan.communication import Message
from phalanx.plan.kernels import Kernel, Timer
from phalanx.plan.memory_profiler import KINDS
from phalanx.plan.network import Group, send
from phalanx.plan.op_recorder import Operation
from phalanx.plan.trace import Trace

_COMPUTE, _TALK = 1, 2


class Clock:
    """Seconds of operations and messages of a layout on a cluster."""

    def __init__(self, cluster: Cluster, layout: LayoutConfig, precision: str) -> None:
        self.cluster, self.timer = cluster, Timer(cluster, precision)
        self.sizes = {"tp": layout.tp, "cp": layout.cp, "dp": layout.dp, "pp": layout.pp}  # the fastest first

    def operation(self, operation: Operation) -> float:
        """Return the seconds that the roofline gives a traced operation."""
        batch, *shape = operation.shape
        if operation.flops and not batch:
            return self.timer(Kernel("flash", operation.bytes, (1, 1, operation.flops // 2)))
        return self.timer(
            Kernel("matrix" if batch else "other", operation.bytes, (shape[0], shape[1], shape[2]), batch)
        )

    def message(self, message: Message) -> float:
        """Return the seconds of a collective, or of one side of a message between two ranks."""
        axes, stride, size = message.axes.split(), 1, 1
        for axis, ranks in self.sizes.items():
            if axis in axes:
                size *= ranks
            elif size == 1:
                stride *= ranks
        if message.kind in ("send", "receive"):
            return send(self.cluster, message.bytes, stride)
        group = Group(self.cluster, size, stride)
        return group.all_reduce(message.bytes) if message.kind == "all-reduce" else group.scatter(message.bytes)


def write(traced: Trace, clock: Clock, out: Path) -> float:
    """Write the file; return the seconds of the step."""
    events = [json.dumps(event) for event in _events(traced, clock)]
    durable.write(out, ('{"displayTimeUnit":"ms","traceEvents":[\n' + ",\n".join(events) + "\n]}\n").encode())
    last = json.loads(events[-1])
    return float(last["ts"]) / 1e6


def _events(traced: Trace, clock: Clock) -> Iterator[dict[str, Any]]:
    """Return the events, with times in microseconds; the last is the step's end."""
    pid = traced.rank
    yield {"ph": "M", "name": "process_name", "pid": pid, "args": {"name": f"rank {pid}"}}
    for tid, name in (_COMPUTE, "compute"), (_TALK, "messages"):
        yield {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": name}}
    now = talking = 0.0
    for number, operation in enumerate(traced.operations):
        event: dict[str, Any] = {"ph": "X", "name": operation.name, "pid": pid, "tid": _COMPUTE, "ts": now}
        if message := operation.message:
            start = max(now, talking)
            talking = start + 1e6 * clock.message(message)
            event |= {"name": f"{message.kind} {message.axes}", "tid": _TALK, "ts": start, "dur": talking - start}
            event["args"] = {"bytes": message.bytes}
            if "dp" not in message.axes.split():
                now = talking
        else:
            event["dur"] = 1e6 * clock.operation(operation)
            event["cat"] = "backward" if operation.backward else "forward"
            event["args"] = {"flops": operation.flops, "bytes": operation.bytes}
            now += event["dur"]
        yield event
        sizes = traced.timeline[min(operation.at, len(traced.timeline) - 1)].tolist()
        if number % 8 == 0:
            counted = dict(zip(KINDS, sizes, strict=True))
            yield {"ph": "C", "name": "memory", "pid": pid, "ts": event["ts"], "args": counted}
    yield {"ph": "i", "name": "end of the step", "pid": pid, "tid": _COMPUTE, "s": "p", "ts": max(now, talking)}
