"""Fill a model that is cut and has no weights yet: precision, recompute, packing, compilation."""

import torch
import torch.compiler.config
from torch import nn

from phalanx.config import Config
from phalanx.models.family import spec_of
from phalanx.nn import loss
from phalanx.nn.block import Block
from phalanx.nn.heads import VocabularyHead
from phalanx.nn.packed import enable_packing, has_varlen
from phalanx.precision import gemm
from phalanx.spec.costs import kinds
from phalanx.train.loader import Loader

WORTH_IT = 0.1  # of a batch being padding: on a GPU the kernel for packed rows is a third slower than the one for rows
ROWS = 64  # of a batch that are looked at
MOST_GRAPHS = 64  # of the blocks: one for each kind of block, with and without gradients, for each shape of a batch


def prepare(
    model: nn.Module, config: Config, device: torch.device, packs: bool = False, lengths_vary: bool = False
) -> None:
    """Fill the slots of a model, or of a stage of it, for a resolved configuration.

    `packs` leaves padding out of its batches; `lengths_vary` says that its batches have many lengths.
    """
    gemm.fill(model, config.precision.dtype, device)
    for block in (module for module in model.modules() if isinstance(module, Block)):
        block.recompute = config.layout.recompute
    if packs:
        enable_packing(model, kernel=device.type == "cuda")
    for head in (module for module in model.modules() if isinstance(module, VocabularyHead)):
        head.columns = head.columns._replace(z=config.train.z_loss)
    if config.train.compile == "on":
        compile_parts(model, lengths_vary or packs)


def packing_pays(config: Config, loader: Loader) -> bool:
    """Return whether a run should leave padding out of its batches.

    It can where a process has all layers and whole sequences and attention takes packed rows; dropout of attention goes
    by places in the row. It pays where the run's first batch has padding, or ends documents inside a sequence.
    """
    layout, attentions = config.layout, [block.attention for block in kinds(spec_of(config.model))]
    possible = config.train.compile == "off"
    if config.train.device == "cuda":
        device = torch.device("cuda")
        possible = config.precision.dtype != "fp32" and all(has_varlen(device, each.width) for each in attentions)
    if not possible or max(layout.tp, layout.cp, layout.pp) > 1 or any(each.drop for each in attentions):
        return False

    document = loader.make(0, ROWS).document
    if document is None:
        return False
    return bool((document > 0).any()) or (document < 0).float().mean().item() > WORTH_IT


def compile_parts(model: nn.Module, lengths_vary: bool) -> None:
    """Compile the blocks, of which those of a kind share a graph, and the loss over a vocabulary that is whole, before
    the first step. Where batches have many lengths one graph serves them all.
    """
    # blocks of all kinds share their code, and torch gives up on code that has more graphs than this
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_GRAPHS)

    # torch keeps compiled graphs by what they compute, not by the width of the vectors that they were written for. One
    # that is found where these are narrower (a folder of several machines, a cap on instructions) writes past them.
    torch.compiler.config.cache_key_tag = torch.backends.cpu.get_cpu_capability()
    for module in model.modules():
        if isinstance(module, Block):
            module.compile(dynamic=lengths_vary)
        elif isinstance(module, VocabularyHead) and module.columns.whole:
            module.columns = loss.compiled(module.columns.z)
