"""The resources that sources read first: they existed before the stored past has them."""

from collections.abc import Iterable, Mapping
from typing import Final

from almenara.panels.past import find_recorder
from almenara.panels.view import View
from almenara.signals import Resource
from almenara.state.checkpoint_codec import Change
from almenara.state.resources import Resources
from almenara.state.samples import Key
from almenara.units import HOUR, MINUTE, SECOND

READING: Final = 10 * SECOND
"""How long the first reading of a kind may take from its first resource on."""
STARTUP: Final = MINUTE
"""How long after its first resource a source may read other kinds for the first time."""
PIECE: Final = HOUR
"""The changes that are in memory at once."""

Group = tuple[str, str]
"""Origin and kind of the resources that one reading lists."""


async def find_first_readings(
    view: View, since: int, until: int, earlier: Resources, later: Iterable[Resource]
) -> Mapping[Key, Resource]:
    """Return what sources read first after a moment, each resource as it was then.

    `earlier` are the resources as of the moment, and `later` those whose kinds matter. A kind that
    a source had published by then, or publishes for the first time long after its start, has no
    first reading: its resources are new. Raises `Unavailable`.
    """
    before = earlier.present()
    groups = {_group(resource) for resource in later}
    groups -= {_group(resource) for resource in before}
    if not groups:
        return {}
    readings = FirstReadings((state.name for state in view.sources.states()), groups)
    if before:
        start = await view.resources.at(since - STARTUP)
        readings.start_sources([] if start is None else start.present(), since - 2 * STARTUP)
        readings.start_sources(before, since)
    recorder = find_recorder(view)
    for start_of_piece in range(since, until, PIECE):
        reached = min(start_of_piece + PIECE, until)
        readings.accept(await recorder.read_changes(start_of_piece, reached))
        if readings.are_complete(reached):
            break
    return readings.resources


class FirstReadings:
    """Finds the first readings of groups in the changes of resources."""

    def __init__(self, names: Iterable[str], groups: Iterable[Group]) -> None:
        self.resources: dict[Key, Resource] = {}
        """What was read first."""
        self._names = sorted(names, key=len, reverse=True)
        self._groups = set(groups)
        """Those that may have a first reading."""
        self._sources: dict[str, str] = {}
        """The names of the sources of origins."""
        self._started: dict[str, int] = {}
        """When the first resource of each source was known."""
        self._read: dict[Group, int] = {}
        """When the first resource of each group was known."""

    def start_sources(self, resources: Iterable[Resource], time: int) -> None:
        """Note that the sources of resources had started by a time."""
        for origin in {resource.origin for resource in resources}:
            self._started.setdefault(self._find_source(origin), time)

    def accept(self, changes: Iterable[Change]) -> None:
        """Read changes, in their order."""
        for time, resource in changes:
            group = _group(resource)
            started = self._started.setdefault(self._find_source(resource.origin), time)
            if group not in self._groups or resource.deleted:
                continue
            read = self._read.setdefault(group, time)
            if read - started <= STARTUP and time - read <= READING:
                self.resources.setdefault(resource.key, resource)

    def are_complete(self, reached: int) -> bool:
        """Whether no change after a time can be of a first reading."""
        return all(self._is_complete(group, reached) for group in self._groups)

    def _is_complete(self, group: Group, reached: int) -> bool:
        if group in self._read:
            return reached - self._read[group] > READING
        started = self._started.get(self._find_source(group[0]))
        return started is not None and reached - started > STARTUP

    def _find_source(self, origin: str) -> str:
        """Return the name of the source of an origin; the origin itself where it is not known."""
        if origin not in self._sources:
            names = (name for name in self._names if f"{origin}/".startswith(f"{name}/"))
            self._sources[origin] = next(names, origin)
        return self._sources[origin]


def _group(resource: Resource) -> Group:
    return resource.origin, resource.kind
