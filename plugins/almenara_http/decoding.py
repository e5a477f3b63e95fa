"""Decodes the body of a response by its Content-Encoding, up to a limit.

httpx would decode a chunk at once, and a small one can expand to all memory there is.
"""

import zlib
from typing import Final

ZLIB_OR_GZIP: Final = zlib.MAX_WBITS | 32
"""Window bits for which zlib detects the header of either format (zlib.h, inflateInit2)."""
COMPRESSIONS: Final = ("gzip", "x-gzip", "deflate")


class BodyDecoder:
    """Decodes the parts of a body as they arrive."""

    def __init__(self, encoding: str) -> None:
        names = [name.strip() for name in encoding.lower().split(",")]
        self._names = [name for name in names if name not in ("", "identity")]
        is_known = len(self._names) == 1 and self._names[0] in COMPRESSIONS
        self.unknown = "" if is_known else ", ".join(self._names)
        """The encodings that are not decoded; empty where all are."""
        self._inflate = zlib.decompressobj(ZLIB_OR_GZIP) if is_known else None
        self._has_begun = False

    def decode(self, part: bytes, limit: int) -> bytes:
        """Return at most `limit` bytes of a part. Raises `zlib.error`."""
        if self._inflate is None:
            return part[:limit]
        decoded = b""
        while part and len(decoded) < limit:
            if self._inflate.eof:
                # A gzip file may consist of several, one after another; what else follows is
                # padding.
                if not part.startswith(b"\x1f\x8b"):
                    break
                self._inflate = zlib.decompressobj(ZLIB_OR_GZIP)
            decoded += self._inflate_part(part, limit - len(decoded))
            part = self._inflate.unused_data
        return decoded

    def _inflate_part(self, part: bytes, limit: int) -> bytes:
        inflate = self._inflate or zlib.decompressobj(ZLIB_OR_GZIP)
        is_first, self._has_begun = not self._has_begun, True
        try:
            return inflate.decompress(part, limit)
        except zlib.error:
            if not is_first or self._names != ["deflate"]:
                raise
        # Some servers send "deflate" without the header of zlib (RFC 9110, 8.4.1.2).
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        return self._inflate.decompress(part, limit)
