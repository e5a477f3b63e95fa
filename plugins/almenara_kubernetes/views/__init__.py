"""The values of the panels' templates, made of what a viewer may see."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from almenara.signals import Resource

Values = Mapping[str, Any]
"""The values of a template."""
Filters = Mapping[str, str]
"""The values of a panel's filters."""


class LenientState(dict[str, Any]):
    """A state in which every missing member is None, at any depth, as templates need it."""

    def __missing__(self, name: str) -> None:
        return None


def lenient(resource: Resource) -> Resource:
    """A resource with a `LenientState`."""
    return msgspec.structs.replace(resource, state=_lenient(resource.state))


def _lenient(value: Any) -> Any:
    if isinstance(value, dict):
        return LenientState((name, _lenient(member)) for name, member in value.items())
    if isinstance(value, list):
        return [_lenient(item) for item in value]
    return value


def total(resources: Iterable[Resource], name: str) -> float:
    """The sum of a number in the state of resources."""
    return sum(resource.state.get(name, 0) or 0 for resource in resources)


def share(part: float | None, whole: Any) -> float | None:
    """A share, or None where either is unknown."""
    return part / whole if part is not None and isinstance(whole, int | float) and whole else None


def plural(number: int, one: str, many: str) -> str:
    """The word that fits a number."""
    return one if number == 1 else many
