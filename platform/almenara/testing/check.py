"""All rules of a good plugin at once, for `almenara plugins check`."""

from collections.abc import Mapping
from typing import Any

from almenara.plugins.discovery import find_plugin
from almenara.testing.rules import RULES, Result, examine


def check(plugin: str, settings: Mapping[str, Any]) -> list[Result]:
    """The result of each rule for a plugin: the name of an installed one, or a path.

    Raises `PluginError` where there is no such plugin.
    """
    find_plugin(plugin)
    return [examine(plugin, settings, rule) for rule in RULES]
