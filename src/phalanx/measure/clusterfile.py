"""The text of a calibrated cluster's file: beside every number, how it was measured."""

from datetime import date
from typing import Any

from phalanx.plan.cluster import Cluster

COMMENTS = {
    "gpu": "a device; a processor's is one core with one thread",
    "gpu.units": "that compute a tile of a product each",
    "gpu.memory": "bytes, a device's share",
    "gpu.bandwidth": "bytes read and written by a copy of 64 MiB",
    "gpu.peak": "FLOP/s of the fastest square layer, forward and both gradients",
    "inside": "collectives between processes of this machine, a line through their times by size",
    "inside.bandwidth": "of the largest group; a ring of n moves 2 (n - 1)/n of the bytes",
    "inside.latency": "seconds of any collective",
    "inside.hop": "seconds more for each member",
    "inside.by_members": "bandwidth by size of the group",
    "inside.scatter": "share of the bandwidth that all-gather and reduce-scatter have",
    "between": "not measured: a single machine was at hand; gigabit Ethernet stands here",
    "fitted": "not fitted: the measured table below takes the roofline's place",
    "fitted.host": "seconds between launches",
    "fitted.kernel": "seconds of a kernel that has nothing to do",
    "measured": "what kernels do",
    "measured.hidden": "of an all-reduce under a product, the share that costs nothing",
    "measured.products": "FLOP/s by precision, and by side of a square layer",
    "measured.busy": "times longer beside so many busy processes: products, and a copy",
    "measured.families": "of a training step's kernels, from the profiler: attention's FLOP/s, others' bytes a second",
}


def text(cluster: Cluster, command: str) -> str:
    """Return the cluster file as TOML, with a comment for each measured number."""
    lines = [f"# Measured on {date.today()} by: {command}", ""]
    tables: list[tuple[str, dict[str, Any]]] = [("", cluster.model_dump(exclude_none=True))]
    while tables:
        parent, table = tables.pop(0)
        if parent:
            lines += ["", _commented(f"[{parent}]", parent)]
        for key, value in table.items():
            name = f"{parent}.{key}" if parent else str(key)
            nested = isinstance(value, dict) and any(isinstance(inner, dict) for inner in value.values())
            if nested or (isinstance(value, dict) and not parent):
                tables.append((name, value))
            elif not isinstance(value, dict) or value:
                lines.append(_commented(f"{key} = {_value(value)}", name))
    return "\n".join(lines) + "\n"


def _commented(line: str, name: str) -> str:
    return f"{line}  # {COMMENTS[name]}" if name in COMMENTS else line


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return f"{value:.4g}" if isinstance(value, float) else str(value)
