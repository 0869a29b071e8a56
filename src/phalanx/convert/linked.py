"""A model's parameters out of foreign tensors along their links, and foreign tensors out of parameters."""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from phalanx.convert.folder import Tensors
from phalanx.spec.links import Link, Side, view


class Linked(Tensors):
    """Tensors by name, each put together from views of tensors of `source` when it is asked for.

    `pairs` have the view to be filled and the view to fill it with. What no view fills, such as a vocabulary's padding,
    is zero. Numbers are of `dtype`, or of the source's where that is None. The tensor of the source that was read last
    is kept, because neighbours often lie in one.
    """

    def __init__(
        self, pairs: Iterable[tuple[Side, Side]], source: Mapping[str, Tensor], dtype: torch.dtype | None = None
    ) -> None:
        self.pairs: dict[str, list[tuple[Side, Side]]] = {}
        for to, of in pairs:
            self.pairs.setdefault(to.name, []).append((to, of))
        self.source, self.dtype = source, dtype
        self.last: tuple[str, Tensor] | None = None

    def __getitem__(self, name: str) -> Tensor:
        whole: Tensor | None = None
        for to, of in self.pairs[name]:
            tensor = self._read(of.name)
            if whole is None:
                whole = tensor.new_zeros(to.shape, dtype=self.dtype)
            view(whole, to.view).copy_(view(tensor, of.view))
        assert whole is not None
        return whole

    def __iter__(self) -> Iterator[str]:
        return iter(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __contains__(self, name: object) -> bool:
        return name in self.pairs  # a Mapping's own would make the tensor

    def like(self, name: str) -> Tensor:
        """Return a tensor's shape on the meta device, in fp32."""
        return torch.empty(self.pairs[name][0][0].shape, device="meta")

    def _read(self, name: str) -> Tensor:
        if self.last is None or self.last[0] != name:
            self.last = name, self.source[name]
        return self.last[1]


def imported(links: Iterable[Link], tensors: Mapping[str, Tensor]) -> Linked:
    """Return a model's parameters, in fp32, out of foreign tensors."""
    return Linked(((link.ours, link.theirs) for link in links), tensors, torch.float32)


def exported(links: Iterable[Link], parameters: Mapping[str, Tensor]) -> Linked:
    """Return foreign tensors out of a model's parameters."""
    return Linked(((link.theirs, link.ours) for link in links), parameters)
