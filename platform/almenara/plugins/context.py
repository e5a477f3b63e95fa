"""What the platform lends to one plugin: durable values and the resources it has published."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from almenara.hookspecs import ResourceKey


class State(Protocol):
    """Where the state of plugins is stored: the bus."""

    async def save(self, plugin: str, key: str, value: bytes) -> None: ...

    async def load(self, plugin: str, key: str) -> bytes | None: ...

    async def known_resources(self, source: str, kind: str = "") -> Sequence[ResourceKey]: ...


class PluginContext:
    """What the platform lends to one plugin; see `hookspecs.Context`.

    It may be used from any event loop; calls run on the loop that it was created on.
    """

    def __init__(self, plugin: str, state: State, data_dir: Path) -> None:
        self.plugin, self.state, self.data_dir = plugin, state, data_dir
        self._home = asyncio.get_running_loop()

    async def load(self, key: str) -> bytes | None:
        value: bytes | None = await self._call(self.state.load, self.plugin, key)
        return value

    async def save(self, key: str, value: bytes) -> None:
        await self._call(self.state.save, self.plugin, key, value)

    async def known_resources(self, source: str, kind: str = "") -> Sequence[ResourceKey]:
        keys: Sequence[ResourceKey] = await self._call(self.state.known_resources, source, kind)
        return keys

    async def _call(self, call: Callable[..., Any], *arguments: Any) -> Any:
        if asyncio.get_running_loop() is self._home:
            return await call(*arguments)
        future = asyncio.run_coroutine_threadsafe(call(*arguments), self._home)
        return await asyncio.wrap_future(future)
