"""What the platform lends to one plugin: durable values and the resources it has published."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final, Protocol

from almenara.hookspecs import ResourceKey

SaveValue = Callable[[str, str, bytes], Awaitable[None]]
"""Stores a value of a plugin under a key."""

save_of_source: Final[ContextVar[SaveValue | None]] = ContextVar("save_of_source", default=None)
"""How the source that runs now stores values: under its lease, so that what it saves after another
replica has taken it over is not stored. None outside of a source."""


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
        save = save_of_source.get() or self.state.save
        await self._call(save, self.plugin, key, value)

    async def known_resources(self, source: str, kind: str = "") -> Sequence[ResourceKey]:
        keys: Sequence[ResourceKey] = await self._call(self.state.known_resources, source, kind)
        return keys

    async def _call(self, call: Callable[..., Any], *arguments: Any) -> Any:
        if asyncio.get_running_loop() is self._home:
            return await call(*arguments)
        future = asyncio.run_coroutine_threadsafe(call(*arguments), self._home)
        return await asyncio.wrap_future(future)
