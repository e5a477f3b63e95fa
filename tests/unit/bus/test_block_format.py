"""Sealed blocks: what is written is read back, and damage is noticed."""

import zlib
from unittest.mock import patch

import pytest
from hypothesis import given, settings, strategies as st

from almenara.bus import block_format
from almenara.bus.block_format import Block, DamagedBlockError, Entry, encode_block

NUMBERS = st.integers(-(2**63), 2**63 - 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
ENTRIES = st.lists(
    st.tuples(
        NUMBERS, TEXTS, TEXTS, TEXTS, TEXTS, TEXTS, NUMBERS, st.sampled_from((9, 13, 17)),
        st.none() | TEXTS, st.none() | TEXTS, st.none() | TEXTS,
        st.none() | st.binary(max_size=9), TEXTS,
    ),
    min_size=1, max_size=8,
)  # fmt: skip
ENTRY: Entry = (7, "a", "s", "o", "t", "", 1, 9, None, None, None, None, '"done"')


class ZlibCompressor:
    """Compresses as version 1 did."""

    def __init__(self, level: int) -> None:
        compressor = zlib.compressobj(6)
        self.compress, self.flush = compressor.compress, compressor.flush

    def set_pledged_input_size(self, size: int) -> None:
        pass


@settings(max_examples=50, deadline=None)
@given(ENTRIES)
def test_block_has_the_entries_of_either_version(entries: list[Entry]) -> None:
    with (
        patch("almenara.bus.block_format.zstd.ZstdCompressor", ZlibCompressor),
        patch.object(block_format, "VERSION", 1),
        patch.object(block_format, "PLAIN_BYTES", -1),
    ):
        former = encode_block(entries)
    with patch.object(block_format, "PLAIN_BYTES", -1):
        compressed = encode_block(entries)
    for content in (former, compressed, encode_block(entries)):
        assert Block(content).entries(range(len(entries))) == entries


def test_block_names_the_damaged_column() -> None:
    content = bytearray(encode_block([ENTRY]))
    content[-1] ^= 1
    with pytest.raises(DamagedBlockError, match="the column raw"):
        Block(bytes(content))


def test_block_refuses_a_newer_version() -> None:
    with patch.object(block_format, "VERSION", block_format.VERSION + 1):
        content = encode_block([ENTRY])
    with pytest.raises(DamagedBlockError, match="upgrade Almenara"):
        Block(content)


def test_decompress_refuses_content_that_is_cut_off() -> None:
    content = block_format.compress(b"events" * 50)
    assert block_format.decompress(content) == b"events" * 50
    with pytest.raises(DamagedBlockError):
        block_format.decompress(content[:-3])
