"""Reload of the plugins of the plugins directory when their files change."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from almenara.config import ConfigError
from almenara.plugins.discovery import FileStamps, plugins_in_folder, stamp_files
from almenara.plugins.host import PluginHost

log = structlog.get_logger(__name__)

POLL_INTERVAL: Final = 0.3
"""Seconds between checks of the folder."""


def stamp_folder(folder: Path) -> dict[str, FileStamps]:
    """The plugins of a folder with the stamps of their files."""
    return {
        candidate.name: stamp_files(candidate.path)
        for candidate in plugins_in_folder(folder)
        if candidate.path is not None
    }


async def reload_saved(folder: Path, host: PluginHost, refresh: Callable[[str], None]) -> None:
    """Reload plugins that change in the folder, until cancelled; bus and connections stay.

    `refresh` is called with the name of each plugin whose panels may have changed.
    """
    # The stamps as imported, not those of now: a file may have been saved in between.
    known = dict(host.plugins.stamps)
    while True:
        await asyncio.sleep(POLL_INTERVAL)
        try:
            current = await asyncio.to_thread(stamp_folder, folder)
        except ConfigError as error:
            log.warning("the plugins directory cannot be read", error=str(error))
            continue
        changed = [name for name in known.keys() | current if known.get(name) != current.get(name)]
        known = current
        for name in sorted(changed):
            await _reload(folder, name, host)
            refresh(name)


async def _reload(folder: Path, name: str, host: PluginHost) -> None:
    plugins = host.plugins
    # A plugin of this name may be an installed one, which a file does not replace.
    for info in plugins.infos():
        if info.origin in (str(folder / name), str(folder / f"{name}.py")):
            await host.remove(info.name)
    for candidate in plugins_in_folder(folder):
        if candidate.name == name and name not in host.settings.disabled_plugins:
            plugins.load(candidate)
    if name in plugins.modules and name in plugins.from_folder:
        try:
            host.add(name)
        except ConfigError as error:
            plugins.record_failure(name, str(error))
        else:
            log.info("a plugin was reloaded", plugin=name)
