"""The sealed blocks that queries have read last, decompressed: the next page needs them again."""

import threading
from collections.abc import Callable, Hashable
from typing import Final, TypeVar

from almenara.bus.block_format import Block

B = TypeVar("B", Block, Block | None)

MAX_BYTES: Final = 4 * 1024**2
"""Decompressed columns of all blocks together. With what is derived from them, a block takes about
twice as much memory."""
MAX_BLOCKS: Final = 64


class BlockCache:
    """Blocks by a key that identifies their content. Used by several threads."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._blocks: dict[Hashable, Block] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, read: Callable[[], B]) -> B:
        """Return the block of a key, which `read` returns where it is not in memory.

        Raises what `read` raises.
        """
        with self._lock:
            stored = self._blocks.pop(key, None)
        block = read() if stored is None else stored
        if block is None:
            return block
        with self._lock:
            self._blocks[key] = block
            # Columns are decompressed later, so that the sizes of all blocks are added each time.
            size = sum(each.size for each in self._blocks.values())
            while self._blocks and (size > self._max_bytes or len(self._blocks) > MAX_BLOCKS):
                size -= self._blocks.pop(next(iter(self._blocks))).size
        return block
