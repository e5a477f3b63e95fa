"""Servers that send without end: the client stops reading, long before the time limit."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from almenara_neo4j.byte_limit import MAX_BYTES
from almenara_neo4j.client import BoltClient
from almenara_neo4j.errors import ServerError
from almenara_neo4j.settings import DeploymentSettings
from support.bolt import RECORD, SUCCESS, Answer, pack_message, run_bolt_server

pytestmark = pytest.mark.anyio

HEADER = pack_message(SUCCESS, {"fields": ["name"], "t_first": 0})
CHUNK = b"\x80\x00" + bytes(0x8000)
RESPONSES: dict[str, tuple[bytes, bytes]] = {
    "rows": (HEADER, pack_message(RECORD, ["x" * 10_000]) * 10),
    "message": (HEADER + b"\x00\x07\xb1\x71\xd6\x7f\xff\xff\xff", CHUNK * 4),
    "error": (b"\x00\x07\xb1\x7f\xd6\x7f\xff\xff\xff", CHUNK * 4),
}
"""What a server sends at first, and then again and again."""


class Endless:
    """Sends one of the responses without end, and counts its bytes."""

    def __init__(self, response: tuple[bytes, bytes]) -> None:
        self.response, self.sent = response, 0

    def answer(self, query: str, _parameters: dict[str, Any]) -> Answer:
        return self._send() if "endless" in query else (["name"], [["short"]])

    def _send(self) -> Iterator[bytes]:
        first, following = self.response
        for data in itertools.chain([first], itertools.repeat(following)):
            self.sent += len(data)
            yield data


@pytest.mark.parametrize("response", RESPONSES.values(), ids=RESPONSES)
async def test_client_stops_reading_an_endless_response(response: tuple[bytes, bytes]) -> None:
    endless = Endless(response)
    async with run_bolt_server(endless.answer) as url:
        settings = DeploymentSettings(name="lab", urls=[url], timeout=120.0)
        client = BoltClient(settings.addresses[0], settings)
        try:
            with pytest.raises(ServerError, match="the response to the list has more than 16 MiB"):
                await client.read("the list", "SHOW endless")
            # Beyond the limit are what the sockets of both sides have room for.
            assert endless.sent < 2 * MAX_BYTES
            assert await client.read("the list", "SHOW names") == [{"name": "short"}]
        finally:
            await client.close()


async def test_client_drops_few_rows_beyond_the_limit() -> None:
    endless = Endless(RESPONSES["rows"])
    async with run_bolt_server(endless.answer) as url:
        settings = DeploymentSettings(name="lab", urls=[url], timeout=120.0)
        client = BoltClient(settings.addresses[0], settings)
        try:
            assert len(await client.read("the list", "SHOW endless", limit=10)) == 10
            assert endless.sent < 2 * MAX_BYTES
            assert await client.read("the list", "SHOW names") == [{"name": "short"}]
        finally:
            await client.close()


async def test_client_counts_the_bytes_of_each_response() -> None:
    def answer(_query: str, _parameters: dict[str, Any]) -> Answer:
        return ["name"], [["x" * 60_000]] * 120

    async with run_bolt_server(answer) as url:
        settings = DeploymentSettings(name="lab", urls=[url], timeout=120.0)
        client = BoltClient(settings.addresses[0], settings)
        try:
            for _ in range(4):
                assert len(await client.read("the list", "SHOW names")) == 120
        finally:
            await client.close()
