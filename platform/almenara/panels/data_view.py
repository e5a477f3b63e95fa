"""What a plugin's panel reads when it prepares its own values."""

from collections.abc import Mapping, Sequence
from typing import Literal

from almenara.history import Filter
from almenara.hookspecs import ResourceQuery
from almenara.panels.filters import ResourceFilters, matches_pattern
from almenara.panels.slices import map_in_slices
from almenara.panels.view import View
from almenara.patterns import compile_pattern
from almenara.signals import Event, Resource, Signal


def select_resources(view: View, query: ResourceQuery) -> list[Resource]:
    """The resources that a query selects, by kind, namespace and name, without its limit."""
    namespace, name = query.namespace, query.name
    is_plain = compile_pattern(namespace) is None
    selected: list[Resource] = []
    for kind in view.resources.kinds():
        if matches_pattern(query.kind, kind):
            of_kind = view.resources.of_kind(kind, namespace if is_plain else "")
            selected += [resource for resource in of_kind if not resource.deleted]
    if not is_plain:
        selected = [each for each in selected if matches_pattern(namespace, each.namespace)]
    return [each for each in selected if matches_pattern(name, each.name)] if name else selected


async def find_resources(
    view: View, query: ResourceQuery, filters: ResourceFilters
) -> list[Resource]:
    """The resources that a query selects and that pass the filters, without its limit."""
    resources = select_resources(view, query)
    matches = await map_in_slices(filters.matches, resources)
    return [resource for resource, is_match in zip(resources, matches, strict=True) if is_match]


class PanelDataView:
    """`hookspecs.DataView` over a view."""

    def __init__(self, view: View) -> None:
        self._view = view

    @property
    def moment(self) -> int | None:
        return self._view.moment

    def resources(self, query: ResourceQuery) -> Sequence[Resource]:
        return select_resources(self._view, query)[: query.limit]

    def resource(self, kind: str, namespace: str, name: str) -> Resource | None:
        resource = self._view.resources.get(kind, namespace, name)
        return None if resource is None or resource.deleted else resource

    def latest(self, resource: Resource, metric: str) -> float | None:
        return self._view.resources.latest(*resource.key, metric)

    def series(self, resource: Resource, metric: str) -> Sequence[tuple[int, float]]:
        return self._view.resources.series(*resource.key, metric)

    async def prefetch(self, resources: Sequence[Resource], metrics: Sequence[str]) -> None:
        await self._view.resources.prefetch((each.key for each in resources), metrics)

    def permits(self, signal: Signal) -> bool:
        return self._view.scope.permits(signal)

    def redact(self, resource: Resource) -> Resource:
        return self._view.redact_resource(resource)

    def has_role(self, role: Literal["viewer", "operator"]) -> bool:
        return role == "viewer" or self._view.scope.is_operator

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
        return [
            (record.sequence, record.signal)
            for record in records
            if isinstance(record.signal, Event)
        ]

    async def count(self, filter: Mapping[str, str], *, limit: int = 10_000) -> int:  # noqa: A002
        return await self._view.history.count(Filter.from_query(filter), limit=limit)
