"""A nested state as a flat one: tensors by path, plain values by path.

State dicts nest dicts and lists. A checkpoint wants flat names: "optimizer/state/head.weight/exp_avg" is a tensor,
"optimizer/param_groups/0/lr" a value. Lists of plain values stay whole. The first word of a path is the state's part.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

Tree = dict[str, Any]


def split(state: Tree) -> tuple[dict[str, Tensor], Tree]:
    """Return the tensors and the plain values of `state`, each by path. The tensors are not copied."""
    tensors: dict[str, Tensor] = {}
    values: Tree = {}
    for path, holder, key in _leaves(state):
        assert path not in tensors and path not in values, f"two leaves of the state are named {path}"
        (tensors if isinstance(holder[key], Tensor) else values)[path] = holder[key]
    return tensors, values


def put(state: Tree, values: Tree) -> None:
    """Put plain values, by path, in the place of those that `state` holds."""
    for path, holder, key in _leaves(state):
        if path in values:
            holder[key] = tuple(values[path]) if isinstance(holder[key], tuple) else values[path]


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield path, container and key of every leaf under a dict or a list."""
    for key, child in list(node.items() if isinstance(node, dict) else enumerate(node)):
        path = f"{prefix}{key}"
        if _nests(child):
            yield from _leaves(child, f"{path}/")
        else:
            yield path, node, key


def _nests(node: Any) -> bool:
    if isinstance(node, dict):
        return True
    return isinstance(node, list) and any(isinstance(child, Tensor) or _nests(child) for child in node)
