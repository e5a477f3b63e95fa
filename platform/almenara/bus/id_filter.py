"""A Bloom filter of event ids, which answers for nearly all new ids that they are new."""

from array import array
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

IDS_PER_WORD: Final = 4
"""At most so many ids per word of 64 bits: then 5 in 1,000 new ids are taken for known ones."""
BITS_SET: Final = 5
"""Bits of an id in its word, at most."""
SMALLEST: Final = 10
"""Binary logarithm of the fewest words."""


def _list_patterns() -> list[int]:
    patterns = []
    for number in range(1 << 12):
        pattern = 0
        for byte in blake2b(number.to_bytes(2), digest_size=BITS_SET).digest():
            pattern |= 1 << (byte & 63)
        patterns.append(pattern)
    return patterns


PATTERNS: Final = _list_patterns()


class IdFilter:
    """Ids of 16 random bytes each; one that was added is always known."""

    def __init__(self, ids: int) -> None:
        """`ids` is about how many will be added."""
        self.capacity = ids
        size = 1 << max((ids // IDS_PER_WORD).bit_length(), SMALLEST)
        self._words, self._last = array("Q", bytes(8 * size)), size - 1

    def add(self, ids: bytes) -> None:
        """Add ids that stand one after the other."""
        words, last, patterns = self._words, self._last, PATTERNS
        for number in array("Q", ids)[::2]:
            words[number & last] |= patterns[number >> 52]

    def select(self, ids: Sequence[bytes]) -> list[bytes]:
        """Return the ids that may have been added: all that were, and few others."""
        words, last, patterns = self._words, self._last, PATTERNS
        numbers = array("Q", b"".join(ids))[::2]
        return [
            key
            for key, number in zip(ids, numbers, strict=True)
            if not patterns[number >> 52] & ~words[number & last]
        ]
