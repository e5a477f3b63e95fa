"""The whole contract with plugins: what a plugin may register, and what it is given.

A plugin is a module that implements any of the hooks below with `@almenara.hookimpl`:

    import almenara, msgspec
    from almenara.hookspecs import Publish, Source
    from almenara.signals import Event, now

    class Heartbeat(msgspec.Struct):
        every: float = 10.0

    class HeartbeatSource:
        name = "heartbeat"
        def __init__(self, settings): self.settings = settings
        async def run(self, publish): ...

    @almenara.hookimpl
    def almenara_settings(): return Heartbeat

    @almenara.hookimpl
    def almenara_sources(settings, context): return [HeartbeatSource(settings)]

Hooks receive their arguments by name and may leave out those they do not need.
"""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import click
import msgspec
import pluggy

from almenara.signals import Signal

hookspec = pluggy.HookspecMarker("almenara")

Publish = Callable[[Sequence[Signal]], Awaitable[None]]
"""Hands a batch to the bus; returns once the batch is durable and numbered. A source acknowledges
upstream only after that. Holds back, without raising, while the bus cannot write."""


class SourceReport(Protocol):
    """How a source tells the Sources page what it knows of itself."""

    def degraded(self, reason: str) -> None:
        """It runs but cannot see what it observes; `reason` says why and what to do."""

    def recovered(self) -> None:
        """It sees again."""

    def lag(self, messages: int) -> None:
        """How many messages wait upstream."""

    def rejected(self, count: int = 1) -> None:
        """How many messages were kept only with a marked problem."""


@runtime_checkable
class Source(Protocol):
    """The part of a plugin that observes one system; the supervisor runs and restarts it."""

    name: str

    async def run(self, publish: Publish, report: SourceReport) -> None:
        """Observe until cancelled; raising or returning makes the supervisor start it again."""


class Context(Protocol):
    """What the platform lends to a plugin."""

    data_dir: Path
    """A folder of this plugin alone, that survives restarts."""

    async def load(self, key: str) -> bytes | None:
        """The value that `save` stored under `key`, durable across restarts."""

    async def save(self, key: str, value: bytes) -> None:
        """Store a small value, such as a position upstream, durably."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `almenara doctor`."""

    check: str
    """What was looked at, in a few words: `NATS connection`."""
    verdict: Literal["ok", "warning", "failed"]
    found: str
    """What was found."""
    remedy: str = ""
    """What to do about it; empty where nothing needs doing."""


@hookspec(firstresult=True)
def almenara_settings() -> type[msgspec.Struct]:
    """The struct that types this plugin's part of the configuration."""
    raise NotImplementedError


@hookspec
def almenara_sources(settings: Any, context: Context) -> Sequence[Source]:
    """The sources this plugin runs, made from its settings."""
    raise NotImplementedError


@hookspec
def almenara_commands(read_settings: Callable[[], Any]) -> Sequence[click.Command]:
    """Commands added to `almenara`; `read_settings` reads this plugin's settings when called."""
    raise NotImplementedError


@hookspec
async def almenara_diagnose(settings: Any) -> Sequence[Finding]:
    """What `almenara doctor` should say about the system this plugin observes."""
    raise NotImplementedError
