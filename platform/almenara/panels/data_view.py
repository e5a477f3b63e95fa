"""What a plugin's panel sees of the platform when it prepares its own values."""

import re
from collections.abc import Mapping, Sequence

from almenara.history import Filter
from almenara.hookspecs import ResourceQuery
from almenara.panels.panel import View
from almenara.patterns import compile_pattern
from almenara.signals import Event, Resource


def fits(wanted: str, found: str) -> bool:
    """Whether a name is the wanted one, or matches it as a pattern; empty fits all."""
    if not wanted or wanted == found or wanted == ">":
        return True
    expression: re.Pattern[str] | None = compile_pattern(wanted)
    return expression is not None and expression.fullmatch(found) is not None


def resources(view: View, asked: ResourceQuery) -> list[Resource]:
    """The resources that a query asks for, by kind, namespace and name, without its limit."""
    namespace, name = asked.namespace, asked.name
    plain = compile_pattern(namespace) is None
    found = [
        resource
        for kind in view.resources.kinds()
        if fits(asked.kind, kind)
        for resource in view.resources.of_kind(kind, namespace if plain else "")
        if not resource.deleted
    ]
    if not plain:
        found = [it for it in found if fits(namespace, it.namespace)]
    return [it for it in found if fits(name, it.name)] if name else found


class PanelDataView:
    """`hookspecs.DataView` over a view."""

    def __init__(self, view: View) -> None:
        self._view = view

    def resources(self, query: ResourceQuery) -> Sequence[Resource]:
        return resources(self._view, query)[: query.limit]

    def resource(self, kind: str, namespace: str, name: str) -> Resource | None:
        found = self._view.resources.get(kind, namespace, name)
        return None if found is None or found.deleted else found

    def latest(self, resource: Resource, metric: str) -> float | None:
        return self._view.resources.latest(*resource.key, metric)

    def series(self, resource: Resource, metric: str) -> Sequence[tuple[int, float]]:
        return self._view.resources.series(*resource.key, metric)

    async def events(
        self,
        filter: Mapping[str, str],  # noqa: A002
        *,
        limit: int = 50,
        before: int | None = None,
        after: int | None = None,
    ) -> Sequence[tuple[int, Event]]:
        records = await self._view.history.events(
            Filter.from_query(filter), limit=limit, before=before, after=after
        )
        return [(it.sequence, it.signal) for it in records if isinstance(it.signal, Event)]

    async def count(self, filter: Mapping[str, str], *, limit: int = 10_000) -> int:  # noqa: A002
        return await self._view.history.count(Filter.from_query(filter), limit=limit)
