"""Stateless randomness: every random number is a hash of a key and its global coordinates.

No generator is kept, saved or restored, so a mask is the same on every layout, after every resume, and when a block is
computed again for its gradient. The mixer is a 32-bit avalanche function (two multiplications, three shifts) on int32,
which torch multiplies with wrap-around on every device; `mixing.py` gives the same numbers on plain integers.
"""

import math

import torch
from torch import Tensor

from phalanx import mixing


def signed(word: int) -> int:
    """Return the int32 with the bits of an unsigned 32-bit word."""
    return word - (1 << 32) if word >= 1 << 31 else word


def mix(x: Tensor) -> Tensor:
    """Avalanche every element of an int32 tensor."""
    x = (x ^ ((x >> 16) & 0xFFFF)) * signed(mixing.FIRST)
    x = (x ^ ((x >> 15) & 0x1FFFF)) * signed(mixing.SECOND)
    return x ^ ((x >> 16) & 0xFFFF)


def key(*parts: int) -> int:
    """Return the int32 with the bits of `mixing.key`."""
    return signed(mixing.key(*parts))


def rows(index: Tensor, key: Tensor, site: Tensor) -> Tensor:
    """Return row hashes, int32 [batch, seq], of coordinates `index` [batch, seq] at a site under `key` [batch]."""
    return mix(mix(index.to(torch.int32)) ^ mix(key ^ site)[:, None])


def bits(rows: Tensor, columns: int, first: int = 0) -> Tensor:
    """Return 32 random bits for each row and column: int32 [..., columns], columns counted from `first`."""
    column = torch.arange(first, first + columns, dtype=torch.int32, device=rows.device) * signed(mixing.GOLDEN)
    return mix(rows.unsqueeze(-1) ^ column)


def keep(rows: Tensor, columns: int, drop: float) -> Tensor:
    """Return dropout's mask, bool [..., columns]: True with probability 1 - drop, to the nearest 2**-16.

    A word serves two columns: its upper half one, its lower half, shifted up, one in the mask's other half.
    """
    words, least = bits(rows, (columns + 1) // 2), (round(drop * 2**16) << 16) - 2**31
    return torch.cat([words >= least, (words << 16) >= least], -1)[..., :columns]


def normal(shape: tuple[int, ...], offset: tuple[int, ...], key: int, std: float, cut: float = 0.0) -> Tensor:
    """Return the part of a global N(0, std²) matrix that starts at `offset`: float32 `shape`, by Box and Muller; with a
    `cut`, of one truncated at so many std, by the inverse of its distribution, as torch.nn.init.trunc_normal_ draws.

    A vector is a matrix of one column, so that a slice along its only dim is a slice of rows.
    """
    height, width = (*shape, 1)[:2]
    top, left = (*offset, 0)[:2]
    out = torch.empty(height, width)
    radius_key, angle_key = mix(torch.tensor([[key], [key ^ signed(mixing.GOLDEN)]], dtype=torch.int32))

    rows = max(1, 2**19 // width)  # few enough that what lies between the operations stays in a cache
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        # mixed on both sides: of two keys that differ in a few low bits one would give the rows of the other, moved
        row = mix(torch.arange(top + start, top + stop, dtype=torch.int32))
        radius = _unit(bits(mix(row ^ radius_key), width, left))
        if cut:
            inside = math.erf(cut / math.sqrt(2)) * (2 * radius - (1 - 2**-24))  # odd: as likely below 0 as above
            out[start:stop] = math.sqrt(2) * torch.erfinv(inside)
            continue
        angle = _unit(bits(mix(row ^ angle_key), width, left))
        out[start:stop] = torch.sqrt(-2 * torch.log(1 - radius)) * torch.cos(2 * math.pi * angle)
    return out.mul_(std).reshape(shape)


def _unit(word: Tensor) -> Tensor:
    """Return float32 in [0, 1) of the upper 24 bits of a word: all that a float32 holds."""
    return ((word >> 8) & 0xFFFFFF).float() / 2**24
