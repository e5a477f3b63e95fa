"""The receivers of remote write in the configuration: their sources, and their diagnosis."""

import asyncio
from collections.abc import Sequence
from typing import Final

from almenara.config import ConfigError, RemoteWriteSettings, Settings
from almenara.errors import describe_error
from almenara.hookspecs import Finding
from almenara.remote_write.source import PLUGIN as PLUGIN, RemoteWriteBus, RemoteWriteSource

SETTING: Final = "samples.remote_write"


def check_remote_write(settings: Settings) -> None:
    """Raise `ConfigError` where a receiver is configured and its libraries are missing."""
    if not settings.samples.remote_write:
        return
    try:
        import cramjam  # noqa: F401
        import httpx  # noqa: F401
    except ImportError:
        raise ConfigError(
            f"{SETTING} needs libraries that are not installed: pip install 'almenara[prometheus]'"
        ) from None


def create_sources(settings: Settings, bus: RemoteWriteBus) -> list[RemoteWriteSource]:
    """Return what sends samples to each receiver."""
    age = settings.storage.sample_retention_age
    return [RemoteWriteSource(receiver, bus, age) for receiver in settings.samples.remote_write]


async def diagnose(settings: Settings) -> Sequence[Finding]:
    """Return a finding for each receiver: whether it accepts a request without samples."""
    return await asyncio.gather(*map(_check_receiver, settings.samples.remote_write))


async def _check_receiver(settings: RemoteWriteSettings) -> Finding:
    from almenara.remote_write.client import RemoteWriteClient

    check = f"remote write ({settings.name})"
    try:
        async with RemoteWriteClient(settings) as client:
            await client.send(())
    except Exception as error:
        return Finding(
            check=check,
            verdict="failed",
            message=f"{settings.url}: {describe_error(error)}",
            remedy=f"Check the receiver, and url, bearer, password and ca of {SETTING}.",
        )
    return Finding(check=check, verdict="ok", message=f"{settings.url} accepts samples")
