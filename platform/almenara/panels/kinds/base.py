"""What all kinds share: the common fields of a declaration, and which signals affect a query."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from almenara import hookspecs
from almenara.bus import Record
from almenara.history import Filter
from almenara.hookspecs import EventQuery, Filter as FilterField, ResourceQuery, SampleQuery
from almenara.panels.filters import (
    PanelFilters,
    ResourceFilters,
    filter_names,
    matches_pattern,
)
from almenara.panels.panel import IsAffected, Panel, Prepare
from almenara.signals import Event, Resource, Sample


def make_panel(
    plugin: str,
    declaration: hookspecs.Panel,
    prepare: Prepare,
    *,
    template: str = "",
    parse: Callable[[Mapping[str, str]], PanelFilters] = ResourceFilters.from_query,
    **fields: Any,
) -> Panel:
    """Make a panel of a declaration; `fields` are those of its kind and take precedence."""
    kind = str(type(declaration).__struct_config__.tag)
    common: dict[str, Any] = {
        "filters": frozenset(filter_names(declaration.filters)),
        "refresh": declaration.refresh,
    }
    return Panel(
        name=f"{plugin}.{declaration.name}",
        title=declaration.title,
        template=template or f"kind_{kind}.html",
        prepare=prepare,
        parse=parse,
        filter_fields={
            each.name: each for each in declaration.filters if isinstance(each, FilterField)
        },
        kind=kind,
        plugin=plugin,
        width=declaration.width,
        height=declaration.height,
        empty=declaration.empty,
        on_overview=declaration.on_overview,
        **(common | fields),
    )


def affected_by_events(query: EventQuery) -> IsAffected:
    """Whether a batch has an event that matches both the query and the panel's filters."""
    base = Filter.from_query(query.filter)

    def is_affected(batch: Sequence[Record], filters: Any) -> bool:
        return any(
            isinstance(record.signal, Event)
            and base.matches(record.signal)
            and (not isinstance(filters, Filter) or filters.matches(record.signal))
            for record in batch
        )

    return is_affected


def affected_by_resources(query: ResourceQuery | SampleQuery) -> IsAffected:
    """Whether a batch has a resource or sample that the query and the filters may select."""
    kind = query.kind

    def is_affected(batch: Sequence[Record], filters: Any) -> bool:
        values = filters if isinstance(filters, ResourceFilters) else ResourceFilters()
        return any(
            isinstance(record.signal, Resource | Sample)
            and matches_pattern(kind, record.signal.kind)
            and matches_pattern(values.namespace, record.signal.namespace)
            and matches_pattern(values.name, record.signal.name)
            for record in batch
        )

    return is_affected
