"""What of a model is compiled: its blocks, which all share a graph, and the loss over a vocabulary that is whole."""

import torch
import torch.compiler.config
from torch import nn

from phalanx.nn import loss
from phalanx.nn.block import Block
from phalanx.nn.heads import VocabularyHead


def compile_parts(model: nn.Module, lengths_vary: bool) -> None:
    """Before the first step. Where batches have many lengths one graph serves them all."""
    # torch keeps compiled graphs by what they compute, not by the width of the vectors that they were written for. One
    # that is found where these are narrower (a folder of several machines, a cap on instructions) writes past them.
    torch.compiler.config.cache_key_tag = torch.backends.cpu.get_cpu_capability()
    for module in model.modules():
        if isinstance(module, Block):
            module.compile(dynamic=lengths_vary)
        elif isinstance(module, VocabularyHead) and module.columns is loss.WHOLE:
            module.columns = loss.compiled()
