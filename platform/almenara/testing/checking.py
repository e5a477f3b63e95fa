"""The rules of a good plugin, for the command line."""

from collections.abc import Mapping
from typing import Any

from almenara.testing.rules import RULES, Result, examine


def check(plugin: str, settings: Mapping[str, Any]) -> list[Result]:
    """What each rule says of a plugin: an installed one's name, or a path."""
    return [examine(plugin, settings, rule) for rule in RULES]
