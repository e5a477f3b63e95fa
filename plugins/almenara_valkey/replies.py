"""Parses replies of a bounded size: a server can announce any length."""

from typing import Any, Final

from valkey._parsers.resp2 import _AsyncRESP2Parser
from valkey.exceptions import InvalidResponse

LARGEST_REPLY: Final = 64 * 1024**2
"""Bytes of a reply."""


class BoundedParser(_AsyncRESP2Parser):
    """The parser of the library, which reads no more than `LARGEST_REPLY` of one reply. The library
    offers no limit; a test holds that this one is used."""

    async def read_response(self, disable_decoding: bool = False) -> Any:
        self._left = LARGEST_REPLY
        return await super().read_response(disable_decoding=disable_decoding)

    async def _read(self, length: int) -> Any:
        self._take(length)
        return await super()._read(length)

    async def _readline(self) -> Any:
        line = await super()._readline()
        self._take(len(line) + 2)
        return line

    def _take(self, length: int) -> None:
        self._left -= length
        if self._left < 0:
            raise InvalidResponse(f"its reply is longer than {LARGEST_REPLY:,} bytes")
