"""All rules of a good plugin at once, for `almenara plugins check`."""

from collections.abc import Mapping
from typing import Any

from almenara.testing.rules import RULES, Result, examine
from almenara.testing.rules.subject import Subject


def open_subject(plugin: str) -> Subject:
    """The plugin to check, without settings: the name of an installed one, or a path.

    Raises `PluginError` where there is no such plugin, or where it cannot be loaded.
    """
    return Subject(plugin, {})


def check(
    plugin: str, settings: Mapping[str, Any], receivers: Mapping[str, Any] | None = None
) -> list[Result]:
    """The result of each rule for a plugin: the name of an installed one, or a path.

    `receivers` has the settings of one receiver of each kind of notifier. Raises `PluginError`
    where there is no such plugin or where it cannot be loaded, and `ConfigError` where it refuses
    its settings: no rule can be checked then.
    """
    Subject(plugin, settings).settings()
    return [examine(plugin, settings, rule, receivers) for rule in RULES]
