"""How long collectives take: latency and bandwidth of hierarchical links (the α-β model of Hockney; rings as in NCCL).

Ranks are numbered with tp fastest, then cp, dp and pp slowest, as Phalanx and Megatron do. A group is known by how many
members it has and how far apart they are; what lies between nodes is shared by all groups that leave the node at once.
"""

from math import ceil, log2

from phalanx.plan.cluster import Cluster


class Group:
    """Ranks that talk along an axis: `size` of them, `stride` apart."""

    def __init__(self, cluster: Cluster, size: int, stride: int) -> None:
        self.size = size
        self.near = max(1, min(size, cluster.node // stride))  # members in a node
        self.nodes = ceil(size / self.near)
        inside, between = cluster.inside, cluster.between
        self.share = inside.scatter if self.near > 1 else between.scatter
        self.latency = inside.latency + inside.hop * self.near if self.near > 1 else 0.0
        self.bandwidth = inside.by_members.get(self.near, inside.bandwidth) if self.near > 1 else float("inf")
        if self.nodes > 1:
            sharing = max(1, min(stride, cluster.node))
            self.latency += between.latency + between.hop * log2(self.nodes)
            self.bandwidth = min(self.bandwidth, between.bandwidth / sharing)

    def all_reduce(self, size: float) -> float:
        """Return the seconds to sum `size` bytes on every member."""
        if self.size == 1:
            return 0.0
        return self.latency + 2 * (self.size - 1) / self.size * size / self.bandwidth

    def scatter(self, size: float) -> float:
        """Return the seconds of an all-gather of `size` bytes in all, or of a reduce-scatter of as many."""
        if self.size == 1:
            return 0.0
        return self.latency / 2 + (self.size - 1) / self.size * size / (self.bandwidth * self.share)


def send(cluster: Cluster, size: float, stride: int) -> float:
    """Return the seconds to hand `size` bytes to the rank `stride` further on, while its neighbours do the same."""
    if stride < cluster.node:
        return cluster.inside.latency / 2 + size / cluster.inside.bandwidth
    return cluster.between.latency + size / (cluster.between.bandwidth / cluster.node)
