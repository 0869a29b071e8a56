"""Modules of plain torch as an optimizer sees a model that one process holds whole."""

from torch import nn

from phalanx.parallel.parameters import Local, Parameters
from phalanx.spec import partition
from phalanx.spec.leaves import Dim, Parameter, Role


def parameters_of(model: nn.Module, dtype: str = "fp32") -> Parameters:
    """All parameters, with the roles that they would have: what is in no block, and no table, is of a head."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    found = {}
    for name, p in model.named_parameters():
        role: Role = "matrix" if "blocks" in name.split(".") else "table" if id(p) in tables else "head"
        if p.ndim < 2:
            role = "bias" if name.endswith("bias") else "norm"
        parameter = Parameter(name, role, tuple(Dim("", size) for size in p.shape))
        found[name] = Local(p, p, parameter, (partition.whole(parameter.shape),))
    return Parameters(found, dtype=dtype)
