"""Report: a traced step beside the closed-form prediction."""

from typing import Any

from phalanx.config import Config
from phalanx.parallel.mesh import Axis, Mesh
from phalanx.plan.communication import ExpectedMessages, Messages
from phalanx.plan.flops import flops
from phalanx.plan.layout_names import short
from phalanx.plan.memory import Memory, memory
from phalanx.plan.rank import labels
from phalanx.plan.trace import Trace
from phalanx.plan.workload import uncounted
from phalanx.units import count

GIB = 2**30


def coordinates(config: Config, rank: int) -> dict[str, int]:
    """Return the coordinates of a global rank by axis, the slowest-varying axis first."""
    places = {}
    for axis in ("tp", "cp", "dp", "pp"):
        rank, places[axis] = divmod(rank, getattr(config.layout, axis))
    return dict(reversed(places.items()))


def planned_messages(config: Config, rank: int, device: str) -> Messages:
    """Return a step's messages by the closed form."""
    layout, at = config.layout, coordinates(config, rank)
    data = layout.dp * layout.cp
    shards = (layout.shard_ways or data) if layout.shard != "none" else 1
    axes = {axis: Axis(getattr(layout, axis), place) for axis, place in at.items()}
    world = Axis(data * layout.tp * layout.pp, rank)
    shard = Axis(shards, (at["dp"] * layout.cp + at["cp"]) % shards)
    mesh = Mesh(axes["pp"], axes["dp"], axes["cp"], axes["tp"], Axis(data), shard, world)
    full, left = divmod(config.train.batch // layout.dp, layout.micro_batch)
    labelled = [labels(config, layout.micro_batch)] * full + [labels(config, left)] * (left > 0)
    return ExpectedMessages(config, mesh, labelled, device).step()


class TraceReport:
    """A trace and what was planned."""

    def __init__(self, config: Config, traced: Trace, device: str = "cuda") -> None:
        self.config, self.traced = config, traced
        self.at = coordinates(config, traced.rank)
        self.messages = planned_messages(config, traced.rank, device)
        self.memory: Memory = memory(config, self.at["pp"], device)
        self.flops = flops(config, self.at["pp"])

    def document(self) -> dict[str, Any]:
        """Return the report as a dict for JSON."""
        return {
            "rank": self.traced.rank,
            "coordinates": self.at,
            "layout": self.config.layout.model_dump(exclude={"timeout"}),
            "parameters": self.traced.parameters,
            "flops": self.traced.flops,
            "planned_flops": self.flops,
            "peak": self.traced.peak,
            "planned_peak": self.memory._asdict(),
            "messages": [
                {**message._asdict(), "ranks": self.ranks(message.axes), "count": times}
                for message, times in self.ordered()
            ],
            "messages_as_planned": self.traced.messages == self.messages,
        }

    def ranks(self, axes: str) -> int:
        """Return the number of ranks in a group along `axes`, whose names are separated by spaces."""
        size = 1
        for axis in axes.split():
            size *= getattr(self.config.layout, axis)
        return size

    def ordered(self) -> list[tuple[Any, int]]:
        """Return the messages with their number, most bytes first."""
        return sorted(self.traced.messages.items(), key=lambda item: (-item[0].bytes * item[1], item[0]))

    def lines(self) -> list[str]:
        """Return the report as lines for a terminal."""
        traced, peak = self.traced, self.traced.peak
        where = " ".join(f"{axis} {place}" for axis, place in self.at.items() if getattr(self.config.layout, axis) > 1)
        planned = self.memory._asdict()
        lines = [
            f"{short(self.config.layout)}, rank {traced.rank}" + (f": {where}" if where else ""),
            "",
            f"parameters  {traced.parameters:,} on this rank",
            f"FLOPs       {count(traced.flops)} a step; planned {self.flops / max(1, traced.flops) - 1:+.2%}",
            "",
            f"{'GiB at the fullest moment':<27}{'traced':>9}{'planned':>9}",
            *(f"  {kind:<25}{peak[kind] / GIB:>9.3f}{planned[kind] / GIB:>9.3f}" for kind in peak),
            f"  {'all':<25}{sum(peak.values()) / GIB:>9.3f}{sum(self.memory) / GIB:>9.3f}",
            "",
            f"{'messages of a step':<20}{'along':<12}{'ranks':>6}{'count':>9}{'bytes':>16}{'all bytes':>20}",
        ]
        for message, times in self.ordered():
            lines.append(
                f"  {message.kind:<18}{message.axes:<12}{self.ranks(message.axes):>6,}{times:>9,}{message.bytes:>16,}"
                f"{times * message.bytes:>20,}"
            )
        if not traced.messages:
            lines.append("  none")
        same = traced.messages == self.messages
        verdict = "messages are as planned" if same else "messages are NOT as planned: please report it"
        return [*lines, "", verdict, *uncounted(self.config)]
