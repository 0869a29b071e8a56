"""The tokens of a prepared set in an object store: those that are asked for, out of the cache or out of the store.

Samples lie all over a set, so each is a range that is asked for by itself; a set that is read a lot and fits into the
cache is fetched there meanwhile, as a whole.
"""

from typing import Any

import numpy as np

from phalanx.data import piece_cache
from phalanx.data.piece_cache import PieceCache
from phalanx.data.remote import RemotePath

READS = 64  # of the store, after which the set is fetched

Array = np.ndarray[Any, np.dtype[Any]]


class RemoteTokens:
    """The tokens of a set as a one-dimensional array of which single places and slices can be read, as an
    `IndexedDataset` does. Raises InputError when they cannot be read.
    """

    def __init__(self, path: RemotePath, dtype: str, count: int) -> None:
        self.path, self.dtype, self.count = path, np.dtype(dtype), count
        self.itemsize = self.dtype.itemsize
        self.nbytes = count * self.itemsize
        self._cache: PieceCache | None = None
        self._reads = 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, slice):
            place = range(self.count)[index]
            return self[place : place + 1][0]
        first, last, step = index.indices(self.count)
        assert step == 1
        return np.frombuffer(self._bytes(first * self.itemsize, max(first, last) * self.itemsize), self.dtype)

    def keep(self, stamp: tuple[int, int], piece: int, sums: tuple[str, ...]) -> None:
        """Have the tokens fetched into the cache, as far as it takes them, once many were read. `stamp` is that of the
        file, `sums` are the SHA-256 of each `piece` bytes, or nothing.
        """
        if piece_cache.has_room(self.path, self.nbytes):
            self._cache = PieceCache(self.path, stamp, piece, sums)

    def _bytes(self, start: int, stop: int) -> Any:
        if self._cache is None:
            return self.path.read_range(start, stop)
        if (content := self._cache.read(start, stop)) is not None:
            return content
        self._reads += 1
        if self._reads >= READS:
            self._cache.fill()
        return self.path.read_range(start, stop)
