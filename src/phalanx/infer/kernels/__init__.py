"""Blocks and products for a CPU in C++, compiled for the machine when they are first wanted."""

from phalanx.infer.kernels.blocks import PRECISIONS, Blocks, Product, fill
from phalanx.infer.kernels.library import lacking

__all__ = ["PRECISIONS", "Blocks", "Product", "fill", "lacking"]
