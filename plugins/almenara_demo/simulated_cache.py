"""A server that answers the commands of the Valkey plugin with simulated figures."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

LIMIT: Final = 256 * 1024**2
RUN_ID: Final = "0" * 39 + "1"
PERIOD: Final = 300.0


class SimulatedCache:
    """The figures of a server, by the seconds since it was started."""

    def __init__(self) -> None:
        self._clock = asyncio.get_running_loop().time
        self._started = self._clock()
        self._answers: dict[str, Callable[[], Any]] = {
            "INFO": self._describe,
            "SCAN": lambda: ["0", ["tasks"]],
            "XLEN": lambda: self._count(20),
            "XINFO": self._list_groups,
            "PUBSUB CHANNELS": lambda: ["decisions", "heartbeats"],
            "PUBSUB NUMSUB": lambda: ["decisions", 3, "heartbeats", 12],
            "SLOWLOG": list,
            "COMMANDLOG": list,
        }

    def answer(self, command: Sequence[str]) -> Any:
        """The reply to a command."""
        name = command[0].upper()
        words = f"{name} {command[1].upper()}" if len(command) > 1 else name
        return self._answers.get(words, self._answers.get(name, lambda: "OK"))()

    def _count(self, rate: float) -> int:
        """A counter that grows by `rate` a second, faster and slower in turns."""
        seconds = self._clock() - self._started
        wave = PERIOD / (2 * math.pi) * (1 - math.cos(2 * math.pi * seconds / PERIOD))
        return int(rate * (seconds + 0.4 * wave))

    def _list_groups(self) -> list[Any]:
        return [
            ["name", name, "consumers", 4, "pending", 6, "last-delivered-id", f"{delivered}-0",
             "lag", self._count(20) - delivered]
            for name, delivered in (("planners", self._count(20)), ("reviewers", self._count(19)))
        ]  # fmt: skip

    def _describe(self) -> str:
        gets, sets = self._count(400), self._count(60)
        fields = {
            "redis_version": "7.2.4", "valkey_version": "9.0.0", "server_mode": "standalone",
            "run_id": RUN_ID, "role": "master", "master_replid": "1" * 40,
            "uptime_in_seconds": int(self._clock() - self._started), "connected_clients": 42,
            "blocked_clients": 4, "pubsub_channels": 2, "maxmemory": LIMIT,
            "maxmemory_policy": "allkeys-lru", "mem_fragmentation_ratio": "1.08",
            "used_memory": min(64 * 1024**2 + sets * 4_000, int(LIMIT * 0.97)),
            "total_commands_processed": gets + sets, "keyspace_hits": int(gets * 0.87),
            "keyspace_misses": gets - int(gets * 0.87), "expired_keys": self._count(5),
            "evicted_keys": 0, "total_net_input_bytes": sets * 4_200,
            "total_net_output_bytes": gets * 4_100, "rdb_last_bgsave_status": "ok",
            "cmdstat_get": f"calls={gets},usec={gets * 4}",
            "cmdstat_set": f"calls={sets},usec={sets * 9}",
            "db0": f"keys={min(sets, 60_000)},expires=100",
        }  # fmt: skip
        return "".join(f"{name}:{value}\r\n" for name, value in fields.items())


def encode(value: Any) -> bytes:
    """A reply in the protocol RESP2 (https://valkey.io/topics/protocol/)."""
    if isinstance(value, int):
        return b":%d\r\n" % value
    if isinstance(value, list):
        return b"*%d\r\n" % len(value) + b"".join(map(encode, value))
    data = str(value).encode()
    return b"$%d\r\n%b\r\n" % (len(data), data)


async def read_command(reader: asyncio.StreamReader) -> list[str]:
    """The next command: an array of strings."""
    size = int((await reader.readuntil(b"\r\n"))[1:])
    words = []
    for _ in range(size):
        length = int((await reader.readuntil(b"\r\n"))[1:])
        words.append((await reader.readexactly(length + 2))[:-2].decode("utf-8", "replace"))
    return words


@contextlib.asynccontextmanager
async def run_simulated_cache(port: int) -> AsyncIterator[None]:
    """Run the server for as long as the block."""
    cache = SimulatedCache()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, ValueError):
            while True:
                writer.write(encode(cache.answer(await read_command(reader))))
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", port)
    try:
        yield
    finally:
        server.close()
