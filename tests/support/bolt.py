"""A server that speaks Bolt 5.0 and answers queries as a test says: for what no edition that can be
had here does. https://neo4j.com/docs/bolt/current/"""

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

MAGIC: Final = b"\x60\x60\xb0\x17"
HELLO, GOODBYE, RESET, RUN, PULL = 0x01, 0x02, 0x0F, 0x10, 0x3F
SUCCESS, RECORD, IGNORED, FAILURE = 0x70, 0x71, 0x7E, 0x7F
Answer = tuple[list[str], list[list[Any]]] | str | Iterator[bytes]
"""The names and the rows of a result, the code of an error, or what to send unchanged."""
AnswerQuery = Callable[[str, dict[str, Any]], Answer]


def pack(value: Any) -> bytes:
    """A value as PackStream; texts and lists of any length have their longest form."""
    if value is None:
        return b"\xc0"
    if isinstance(value, bool):
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        return b"\xcb" + struct.pack(">q", value)
    if isinstance(value, float):
        return b"\xc1" + struct.pack(">d", value)
    if isinstance(value, str):
        data = value.encode()
        return b"\xd2" + struct.pack(">I", len(data)) + data
    if isinstance(value, list):
        return b"\xd6" + struct.pack(">I", len(value)) + b"".join(map(pack, value))
    assert isinstance(value, dict)
    items = b"".join(pack(key) + pack(each) for key, each in value.items())
    return b"\xda" + struct.pack(">I", len(value)) + items


class Unpacker:
    """Reads values from the bytes of one message."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def read(self) -> Any:
        marker = self._take(1)[0]
        if marker < 0x80 or marker >= 0xF0:
            return marker if marker < 0x80 else marker - 0x100
        if marker in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[marker]
        if 0xC8 <= marker <= 0xCB:
            return int.from_bytes(self._take(1 << (marker - 0xC8)), "big", signed=True)
        for base, sized, make in (
            (0x80, 0xD0, self._text), (0x90, 0xD4, self._list), (0xA0, 0xD8, self._map),
        ):  # fmt: skip
            if marker & 0xF0 == base:
                return make(marker & 0x0F)
            if sized <= marker <= sized + 2:
                return make(int.from_bytes(self._take(1 << (marker - sized)), "big"))
        assert marker & 0xF0 == 0xB0, f"marker {marker:#x}"
        return self._take(1)[0], [self.read() for _ in range(marker & 0x0F)]

    def _text(self, size: int) -> str:
        return self._take(size).decode()

    def _list(self, size: int) -> list[Any]:
        return [self.read() for _ in range(size)]

    def _map(self, size: int) -> dict[str, Any]:
        return {self.read(): self.read() for _ in range(size)}

    def _take(self, size: int) -> bytes:
        part = self._data[self._at : self._at + size]
        self._at += size
        return part


def pack_message(tag: int, *fields: Any) -> bytes:
    """A message of one chunk."""
    data = bytes([0xB0 + len(fields), tag]) + b"".join(map(pack, fields))
    return struct.pack(">H", len(data)) + data + b"\x00\x00"


async def read_message(reader: asyncio.StreamReader) -> tuple[int, list[Any]]:
    """The tag and the fields of the next message."""
    data = b""
    while True:
        (size,) = struct.unpack(">H", await reader.readexactly(2))
        if size:
            data += await reader.readexactly(size)
        elif data:
            tag, fields = Unpacker(data).read()
            return tag, fields


def make_handler(
    answer: AnswerQuery,
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """Answers the messages of one connection."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def send(tag: int, *fields: Any) -> None:
            writer.write(pack_message(tag, *fields))

        assert (await reader.readexactly(20))[:4] == MAGIC
        writer.write(b"\x00\x00\x00\x05")
        rows: list[list[Any]] = []
        has_failed = False
        while (message := await read_message(reader))[0] != GOODBYE:
            tag, fields = message
            if tag == RESET:
                has_failed = False
                send(SUCCESS, {})
            elif has_failed:
                send(IGNORED)
            elif tag == HELLO:
                send(SUCCESS, {"server": "Neo4j/5.26.0", "connection_id": "1"})
            elif tag == RUN:
                result = answer(fields[0], fields[1])
                if isinstance(result, str):
                    has_failed = True
                    send(FAILURE, {"code": result, "message": "refused"})
                elif isinstance(result, Iterator):
                    for data in result:
                        writer.write(data)
                        await writer.drain()
                else:
                    names, rows = result
                    send(SUCCESS, {"fields": names, "t_first": 0})
            else:
                for row in rows:
                    send(RECORD, row)
                rows = []
                send(SUCCESS, {"type": "r", "t_last": 0})

    async def handle_until_closed(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            await handle(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    return handle_until_closed


@asynccontextmanager
async def run_bolt_server(answer: AnswerQuery) -> AsyncIterator[str]:
    """Run it for as long as the block; yields its URL."""
    server = await asyncio.start_server(make_handler(answer), "127.0.0.1", 0)
    async with server:
        yield f"bolt://127.0.0.1:{server.sockets[0].getsockname()[1]}"
