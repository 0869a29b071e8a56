"""Blocks and products for a CPU in C++, compiled for the machine when they are first wanted."""

from phalanx.infer.kernels.blocks import PRECISIONS, Blocks, PackedLinear, install, unavailable
from phalanx.infer.kernels.compiled import version

__all__ = ["PRECISIONS", "Blocks", "PackedLinear", "install", "unavailable", "version"]
