"""Plugins of the plugins directory, loaded again when they are saved."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from almenara.config import ConfigError
from almenara.plugins import FileStamps, plugins_in_folder, stamp_files
from almenara.plugins.host import PluginHost

log = structlog.get_logger(__name__)

LOOK: Final = 0.3
"""Seconds between looks at the folder."""


def look(folder: Path) -> dict[str, FileStamps]:
    """The plugins of a folder, and when their files were written."""
    return {
        found.name: stamp_files(found.path)
        for found in plugins_in_folder(folder)
        if found.path is not None
    }


async def reload_saved(folder: Path, plugging: PluginHost, renew: Callable[[str], None]) -> None:
    """Load what changes in the folder, until cancelled; the bus goes on, and browsers stay.

    `renew` is called with the name of each plugin whose panels may be others now.
    """
    # What was imported counts, not what is there now: it may have been saved in between.
    known = dict(plugging.plugins.written)
    while True:
        await asyncio.sleep(LOOK)
        try:
            current = await asyncio.to_thread(look, folder)
        except ConfigError as error:
            log.warning("the plugins directory cannot be read", error=str(error))
            continue
        changed = [name for name in known.keys() | current if known.get(name) != current.get(name)]
        known = current
        for name in sorted(changed):
            # A plugin of this name may be an installed one, which a file does not replace.
            for info in plugging.plugins.described():
                if info.origin in (str(folder / name), str(folder / f"{name}.py")):
                    await plugging.remove(info.name)
            for found in plugins_in_folder(folder):
                if found.name == name and name not in plugging.settings.disabled_plugins:
                    plugging.plugins.load(found)
            if name in plugging.plugins.modules and name in plugging.plugins.from_folder:
                try:
                    plugging.add(name)
                except ConfigError as error:
                    plugging.plugins.note(name, str(error))
                else:
                    log.info("a plugin was loaded again", plugin=name)
            renew(name)
