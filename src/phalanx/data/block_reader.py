"""A stream of what can be asked for in blocks: a few of them ahead where it is read in order, from any place."""

import io
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

BLOCK = 8 << 20  # bytes that are asked for at once
AHEAD = 4  # blocks


class BlockReader(io.RawIOBase):
    """The bytes that `read` returns of a place, `size` in all."""

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self._read, self._size = read, size
        self._position = 0
        self._last = -1  # the block that was read last
        self._blocks: dict[int, Future[bytes]] = {}
        self._pool = ThreadPoolExecutor(AHEAD, "remote")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        number, offset = divmod(self._position, BLOCK)
        part = self._block(number)[offset : offset + len(buffer)] if self._position < self._size else b""
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)

    def close(self) -> None:
        if not self.closed:
            self._pool.shutdown(wait=False, cancel_futures=True)
        super().close()

    def _block(self, number: int) -> bytes:
        """Return a block, and ask for those behind it where the one before it was read too."""
        in_order = number in (self._last, self._last + 1)
        wanted = range(number, min(number + (AHEAD if in_order else 1), -(-self._size // BLOCK)))
        for other in self._blocks.keys() - {*wanted}:
            self._blocks.pop(other).cancel()
        for each in wanted:
            if each not in self._blocks:
                start = each * BLOCK
                self._blocks[each] = self._pool.submit(self._read, start, min(start + BLOCK, self._size))
        self._last = number
        return self._blocks[number].result()
