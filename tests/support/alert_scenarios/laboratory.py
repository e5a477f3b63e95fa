"""A plugin whose sources publish what a test sends, for an Almenara in a process of its own."""

import asyncio
import json
from pathlib import Path
from typing import Any

from support.servers import free_port

SOURCES = ("lab", "frail", "fragile")
PATIENCE = 180.0

PLUGIN = '''
import asyncio
import json

import almenara, msgspec
from almenara.hookspecs import ResourceLink
from almenara.sdk import now
from almenara.signals import Event, Resource, Sample

KINDS = {"event": Event, "resource": Resource, "sample": Sample}


class LabSettings(msgspec.Struct, forbid_unknown_fields=True):
    ports: dict[str, int]
    """Port of each source."""


class Lab:
    """Publishes the signals of each line that a client sends, and confirms them."""

    def __init__(self, name, port):
        self.name, self.port = name, port

    async def run(self, publish, report):
        async def serve(reader, writer):
            try:
                while line := await reader.readline():
                    await obey(json.loads(line))
                    writer.write(b"ok\\n")
                    await writer.drain()
            finally:
                writer.close()

        async def obey(command):
            if "degraded" in command:
                (report.degraded if command["degraded"] else report.recovered)(
                    *filter(None, [command["degraded"]])
                )
            await publish([
                msgspec.convert({"time": now(), **fields}, KINDS[kind], strict=False)
                for kind, fields in command.get("signals", ())
            ])

        server = await asyncio.start_server(serve, "127.0.0.1", self.port, limit=2**24)
        async with server:
            await server.serve_forever()


@almenara.hookimpl
def almenara_settings(): return LabSettings

@almenara.hookimpl
def almenara_sources(settings):
    return [Lab(name, port) for name, port in settings.ports.items()]

@almenara.hookimpl
def almenara_resource_links(settings):
    return [ResourceLink(kind="item", parent="host", name="host")]
'''


class Laboratory:
    """The plugin in a folder, and the connections to its sources."""

    def __init__(self, folder: Path) -> None:
        self.plugins_dir = folder / "plugins"
        self.plugins_dir.mkdir(parents=True, exist_ok=True)
        (self.plugins_dir / "laboratory.py").write_text(PLUGIN, "utf-8")
        self.ports = {name: free_port() for name in SOURCES}

    @property
    def config(self) -> dict[str, Any]:
        """What the configuration needs besides `alerting`."""
        return {
            "plugins_dir": str(self.plugins_dir),
            "plugins": {"laboratory": {"ports": self.ports}, "disabled": ["nats"]},
        }

    async def send(self, source: str = "lab", **command: Any) -> None:
        """Send a command to a source; return once what it publishes is durable.

        Raises `TimeoutError` and `OSError`.
        """
        async with asyncio.timeout(PATIENCE):
            reader, writer = await self._connect(source)
            try:
                writer.write(json.dumps(command).encode() + b"\n")
                answer = await reader.readline()
            finally:
                writer.close()
        assert answer == b"ok\n", f"the source {source} did not publish {command}"

    async def _connect(self, source: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while True:
            try:
                return await asyncio.open_connection("127.0.0.1", self.ports[source])
            except ConnectionError:
                # The source starts after Almenara is ready.
                await asyncio.sleep(0.05)

    async def publish(self, *signals: tuple[str, dict[str, Any]], source: str = "lab") -> None:
        """Publish signals as one batch; each is its kind and its fields."""
        await self.send(source, signals=signals)
