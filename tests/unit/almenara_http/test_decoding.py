"""Bodies are decoded as servers send them, whatever the chunks, up to a limit."""

import gzip
import zlib

import pytest
from hypothesis import given, strategies as st

from almenara_http.decoding import BodyDecoder

BODY = b"all is well " * 200
RAW = zlib.compressobj(wbits=-zlib.MAX_WBITS)
ENCODED = {
    "": BODY,
    "identity": BODY,
    "gzip": gzip.compress(BODY),
    "x-gzip": gzip.compress(BODY[:500]) + gzip.compress(BODY[500:]) + b"\0\0",
    "GZIP": gzip.compress(BODY),
    "deflate": zlib.compress(BODY),
    " deflate": RAW.compress(BODY) + RAW.flush(),
}


@pytest.mark.parametrize("encoding", ENCODED)
def test_body_is_decoded_as_servers_send_it(encoding: str) -> None:
    decoder = BodyDecoder(encoding)
    assert decoder.unknown == ""
    assert decoder.decode(ENCODED[encoding], len(BODY)) == BODY


@given(st.sampled_from(["gzip", "identity", "deflate"]), st.integers(1, 3_000), st.integers(0, 9))
def test_chunks_make_no_difference(encoding: str, limit: int, size: int) -> None:
    content, decoder, decoded = ENCODED[encoding], BodyDecoder(encoding), b""
    for start in range(0, len(content), size + 5):
        if len(decoded) < limit:
            decoded += decoder.decode(content[start : start + size + 5], limit - len(decoded))
    assert decoded == BODY[:limit]


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, br"])
def test_unknown_encoding_is_named(encoding: str) -> None:
    decoder = BodyDecoder(encoding)
    assert decoder.unknown == encoding
    assert decoder.decode(b"\x8b\x01", 9) == b"\x8b\x01"


def test_small_body_does_not_expand_beyond_the_limit() -> None:
    assert len(BodyDecoder("gzip").decode(gzip.compress(b"\0" * 10**7), 1_000)) == 1_000


def test_broken_compression_is_an_error() -> None:
    with pytest.raises(zlib.error):
        BodyDecoder("gzip").decode(b"not gzip at all", 100)
