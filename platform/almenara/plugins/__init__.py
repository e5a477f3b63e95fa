"""Plugins: discovery, registration, and their parts in a running Almenara."""

from almenara.plugins.context import PluginContext
from almenara.plugins.discovery import (
    FileStamps,
    PluginCandidate,
    PluginError,
    find_plugin,
    installed_candidates,
    plugins_in_folder,
    stamp_files,
)
from almenara.plugins.registry import PluginInfo, PluginRegistry, load_plugins, load_source

__all__ = [
    "FileStamps",
    "PluginCandidate",
    "PluginContext",
    "PluginError",
    "PluginInfo",
    "PluginRegistry",
    "find_plugin",
    "installed_candidates",
    "load_plugins",
    "load_source",
    "plugins_in_folder",
    "stamp_files",
]
