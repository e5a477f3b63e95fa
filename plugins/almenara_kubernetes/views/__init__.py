"""The values of the panels' templates, made of what a viewer may see."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from almenara.signals import UNKNOWN, Resource

LAST_KNOWN: Final = frozenset(("unreachable", UNKNOWN))
"""Statuses of a cluster that does not answer, or that is not watched at the moment."""
UNNAMED: Final = "cluster"
"""The resource of a cluster without a name."""
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


class Freshness:
    """Which resources are of clusters that do not answer, so that their state is the last known."""

    def __init__(self, clusters: Iterable[Resource]) -> None:
        self.unreachable = [cluster for cluster in clusters if cluster.status in LAST_KNOWN]
        # A single cluster without a name stands in front of no namespace.
        self._is_all = any(cluster.name == UNNAMED for cluster in self.unreachable)
        self._names = {cluster.name for cluster in self.unreachable}

    def is_stale(self, namespace: str) -> bool:
        """Whether the state of resources in a namespace is the last known one."""
        return self._is_all or namespace.partition("/")[0] in self._names


def total(resources: Iterable[Resource], name: str) -> float:
    """The sum of a number in the state of resources."""
    return sum(resource.state.get(name, 0) or 0 for resource in resources)


def share(part: float | None, whole: Any) -> float | None:
    """A share, or None where either is unknown."""
    return part / whole if part is not None and isinstance(whole, int | float) and whole else None


def plural(number: int, one: str, many: str) -> str:
    """The word that fits a number."""
    return one if number == 1 else many
