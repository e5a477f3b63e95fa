"""The ready-made kinds: what a plugin declared, made into a panel that can be drawn."""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, Self

import msgspec

from almenara.bus import Record
from almenara.errors import NotFound
from almenara.history import Filter
from almenara.hookspecs import (
    Column,
    DetailPanel,
    EventQuery,
    LogPanel,
    LogQuery,
    ResourceQuery,
    SampleQuery,
    TablePanel,
    TemplatePanel,
)
from almenara.hookspecs import Filter as FilterField
from almenara.hookspecs import Panel as Declared
from almenara.live.log_feed import LogFeed, access_for, shown, untold
from almenara.panels.data_view import PanelDataView, fits, resources
from almenara.panels.event_rows import EVENT_FILTERS, events_link, row
from almenara.panels.panel import Panel, Prepare, Touch, View, filter_names, never
from almenara.panels.renderer import formatted, query
from almenara.panels.sparkline import sparkline
from almenara.signals import Event, Resource, Sample, Severity, now
from almenara.structs import find_type_error

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
RESOURCE_FILTERS: Final = ("namespace", "name", "status", "text")
LONGEST_VALUE: Final = 200
FREE: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
"""Filters that a plugin may name itself."""
FIRST_LINES: Final = 1.5
"""Seconds that a page waits for the first lines of a log."""
PLACES: Final = ("name", "namespace", "kind", "status", "severity", "time", "origin")
RIGHT: Final = frozenset(("number", "bytes", "seconds", "percent", "age"))
PLOT: Final = (600.0, 150.0)
BUCKETS: Final = 60
LINES: Final = 8
AGES: Final = 5.0
"""Seconds after which ages are written anew."""
GAP: Final = 6.0
"""A pause of so many usual steps between samples is drawn as one."""


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which resources are wanted, and in which order."""

    namespace: str = ""
    name: str = ""
    status: str = ""
    text: str = ""
    sort: str = ""

    @classmethod
    def from_query(cls, asked: Mapping[str, str]) -> Self:
        """The selection that the parameters of an address describe."""
        known = {
            it: asked[it].strip()[:LONGEST_VALUE] for it in cls.__struct_fields__ if asked.get(it)
        }
        return cls(**known)

    def to_query(self) -> dict[str, str]:
        """The parameters that `from_query` reads back."""
        return {it: value for it in self.__struct_fields__ if (value := getattr(self, it))}

    def takes(self, resource: Resource) -> bool:
        """Whether a resource is wanted."""
        if not (fits(self.namespace, resource.namespace) and fits(self.name, resource.name)):
            return False
        if self.status and self.status.casefold() != resource.status.casefold():
            return False
        if not self.text:
            return True
        written = msgspec.json.encode(resource.state, enc_hook=str).decode("utf-8", "replace")
        whole = f"{resource.namespace} {resource.name} {resource.status} {written}".casefold()
        return all(word in whole for word in self.text.casefold().split())


class Values(msgspec.Struct, frozen=True, kw_only=True):
    """The values of filters whose meaning only the plugin knows."""

    parts: tuple[tuple[str, str], ...] = ()

    @classmethod
    def from_query(cls, asked: Mapping[str, str]) -> Self:
        """The values that the parameters of an address describe."""
        known = ((name, text.strip()[:LONGEST_VALUE]) for name, text in asked.items())
        return cls(parts=tuple(sorted(pair for pair in known if pair[1])))

    def to_query(self) -> dict[str, str]:
        """The parameters that `from_query` reads back."""
        return dict(self.parts)


def columns_of(declared: Declared) -> Sequence[Column]:
    return declared.columns if isinstance(declared, TablePanel | DetailPanel) else ()


def prepare_of(declared: Declared) -> Any:
    return declared.prepare if isinstance(declared, TemplatePanel) else None


def query_of(declared: Declared) -> Any:
    return getattr(declared, "query", None)


def kind_of(declared: Declared) -> str:
    """The kind of a panel: `table`, `series` and so on."""
    return str(type(declared).__struct_config__.tag)


def check(plugin: str, declared: Declared) -> None:
    """Raise `ValueError` for a panel with a wrong name, type, path or filter."""
    here = f"panel {declared.name!r} of plugin {plugin}"
    if type(declared) is Declared:
        raise ValueError(f"{here}: return one of the kinds of panels, such as TablePanel")
    if error := find_type_error(declared):
        raise ValueError(f"{here}: {error}")
    if not NAME.fullmatch(declared.name):
        raise ValueError(f"{here}: the name must be letters, digits, _ and - only")
    for column in columns_of(declared):
        if column.path not in PLACES and not column.path.startswith(("state.", "sample.")):
            near = difflib.get_close_matches(column.path, PLACES, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(
                f"{here}: the path {column.path!r} of the column {column.title!r} must be one of"
                f" {', '.join(PLACES)}, or begin with state. or sample.{hint}"
            )
    _check_filters(here, declared)
    query = query_of(declared)
    if isinstance(query, EventQuery):
        unknown = [it for it in query.filter if it not in EVENT_FILTERS]
        if unknown:
            raise ValueError(f"{here}: the query's filter has no part {unknown[0]!r}")
        try:
            Filter.from_query(query.filter)
        except ValueError as error:
            raise ValueError(f"{here}: the query's filter: {error}") from None


def _check_filters(here: str, declared: Declared) -> None:
    if prepare_of(declared) is not None or isinstance(declared, LogPanel):
        wrong = next((it for it in filter_names(declared.filters) if not FREE.fullmatch(it)), None)
        if wrong is not None:
            raise ValueError(f"{here}: the filter {wrong!r} must be small letters, digits and _")
        return
    possible = EVENT_FILTERS if isinstance(query_of(declared), EventQuery) else RESOURCE_FILTERS
    for name in filter_names(declared.filters):
        if name not in possible:
            near = difflib.get_close_matches(name, possible, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(possible)}"
            raise ValueError(f"{here}: {name!r} is not a filter of its query; {hint}")


def built(plugin: str, declared: Declared, link: str = "") -> Panel:
    """The panel that a plugin declared; `link` is the address that its names lead to, where they
    do not lead to events. Raises `ValueError`."""
    check(plugin, declared)
    filters = frozenset(filter_names(declared.filters))
    if isinstance(declared, TablePanel):
        filters |= {"sort"}
    free = prepare_of(declared) is not None or isinstance(declared, LogPanel)
    kind, query = kind_of(declared), query_of(declared)
    events = isinstance(query, EventQuery)
    ages = any(column.format == "age" for column in columns_of(declared))
    return Panel(
        name=f"{plugin}.{declared.name}",
        title=declared.title,
        template=f"{plugin}/{declared.template}"
        if isinstance(declared, TemplatePanel)
        else f"kind_{kind}.html",
        prepare=_prepare(plugin, declared, link),
        touched_by=_touch(declared),
        filters=filters,
        asked_for={it.name: it for it in declared.filters if isinstance(it, FilterField)},
        read=Values.from_query if free else Filter.from_query if events else Selection.from_query,
        refresh=declared.refresh or (AGES if ages else None),
        kind=kind,
        plugin=plugin,
        width=declared.width,
        height=declared.height,
        on_overview=declared.on_overview,
        log=query if isinstance(query, LogQuery) else None,
    )


def _touch(declared: Declared) -> Touch:
    asked = query_of(declared)
    if isinstance(asked, LogQuery):
        return never
    if isinstance(asked, EventQuery):
        base = Filter.from_query(asked.filter)

        def event(batch: Sequence[Record], chosen: Any) -> bool:
            return any(
                isinstance(it.signal, Event)
                and base.matches(it.signal)
                and (not isinstance(chosen, Filter) or chosen.matches(it.signal))
                for it in batch
            )

        return event
    kind = asked.kind

    def observation(batch: Sequence[Record], chosen: Any) -> bool:
        narrowed = chosen if isinstance(chosen, Selection) else Selection()
        return any(
            isinstance(it.signal, Resource | Sample)
            and fits(kind, it.signal.kind)
            and fits(narrowed.namespace, it.signal.namespace)
            and fits(narrowed.name, it.signal.name)
            for it in batch
        )

    return observation


def _prepare(plugin: str, declared: Declared, link: str) -> Prepare:
    by_kind: dict[str, Callable[..., Any]] = {
        "events": _events,
        "table": _table,
        "detail": _table,
        "status": _status,
        "number": _number,
        "series": _series,
        "log": _log,
    }
    draw = by_kind.get(kind_of(declared))

    async def prepare(view: View, chosen: Any) -> Mapping[str, Any]:
        values: Mapping[str, Any]
        if draw is not None:
            values = await draw(plugin, declared, view, chosen)
        elif (make := prepare_of(declared)) is not None:
            values = await make(PanelDataView(view), chosen.to_query())
        else:
            values = await _for_template(declared, view, chosen)
        return {
            "moment": now(),
            "panel_empty": declared.empty,
            "panel_format": getattr(declared, "format", "number"),
            "panel_link": link,
            **values,
        }

    return prepare


def opened(view: View, plugin: str, asked: Any, chosen: Any) -> LogFeed:
    """The feed that a panel of the kind `tail` shows. Raises `NotFound`."""
    if not isinstance(asked, LogQuery):
        raise TypeError("a log needs a LogQuery")
    values = {name: text for name, text in chosen.to_query().items() if name != "text"}
    tail = view.feeds.known(plugin, asked.stream)
    place = access_for(plugin, tail, values)
    if not view.scope.permits_namespaced(place.source, place.namespace):
        raise NotFound("this is not among what you may see")
    right = place.right
    if right is not None and not view.scope.has_cluster_right(
        str(right), place.source, place.namespace
    ):
        raise NotFound(
            f"it takes the right to `{right}` in the namespace {place.namespace}, which you do not"
            " have in the cluster"
        )
    return view.feeds.open(plugin, asked.stream, values, asked.limit)


async def _log(plugin: str, declared: Declared, view: View, chosen: Any) -> dict[str, Any]:
    try:
        feed = opened(view, plugin, query_of(declared), chosen)
    except NotFound as error:
        return untold(str(error.args[0]))
    try:
        await feed.begun(FIRST_LINES)
        return shown(feed, chosen.to_query().get("text", ""), feed.read)
    finally:
        view.feeds.leave(feed)


async def _event_rows(asked: EventQuery, view: View, chosen: Filter) -> list[Mapping[str, Any]]:
    narrowed = Filter.from_query({**chosen.to_query(), **asked.filter})
    records = await view.history.events(narrowed, limit=asked.limit)
    # A part that both name must fit both; the page's own part is looked at here.
    return [row(it) for it in records if isinstance(it.signal, Event) and chosen.matches(it.signal)]


async def _events(plugin: str, declared: Declared, view: View, chosen: Filter) -> dict[str, Any]:
    asked = query_of(declared)
    if not isinstance(asked, EventQuery):
        raise TypeError("a list of events needs an EventQuery")
    return {
        "events": await _event_rows(asked, view, chosen),
        "all": "/events" + query({**asked.filter, **chosen.to_query()}),
    }


def _resources(asked: ResourceQuery, view: View, chosen: Selection) -> list[Resource]:
    return [it for it in resources(view, asked) if chosen.takes(it)]


def severity_of(resource: Resource, declared: Declared) -> str:
    """How much the status of a resource should worry."""
    if resource.severity != Severity.INFO:
        return resource.severity.name
    severities: Mapping[str, Severity] = getattr(declared, "severities", {})
    return severities.get(resource.status, resource.severity).name


def value_at(view: View, resource: Resource, path: str) -> Any:
    """What is at the path of a column; None where nothing is."""
    if path in PLACES:
        value = getattr(resource, path)
        return value.name if isinstance(value, Severity) else value
    start, _, rest = path.partition(".")
    if start == "sample":
        return view.resources.latest(resource.kind, resource.namespace, resource.name, rest)
    value = resource.state
    while rest:
        if not isinstance(value, Mapping):
            return None
        if rest in value:
            return value[rest]
        name, _, rest = rest.partition(".")
        value = value.get(name)
    return value


def _order(value: Any) -> tuple[int, Any]:
    """What sorts values of any types: numbers, then texts, then the rest."""
    if isinstance(value, bool | int | float):
        return 0, value
    if isinstance(value, str):
        return 1, value.casefold()
    return 2, str(value)


def _sorted(view: View, found: list[Resource], path: str, descending: bool) -> list[Resource]:
    valued = [(value_at(view, it, path), it) for it in found]
    known = [pair for pair in valued if pair[0] is not None and pair[0] != ""]
    known.sort(key=lambda pair: _order(pair[0]), reverse=descending)
    # Those without a value come last, whichever way.
    return [it for _, it in known] + [it for value, it in valued if value is None or value == ""]


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """A value of a table as it is drawn."""

    text: str
    how: str
    right: bool
    moment: int | None = None
    events: str = ""
    """The address of the events about it, where it is a name."""
    spark: Any = ""


def _led(resource: Resource) -> str:
    """The parameters by which a page is about one resource."""
    return query(
        {
            name: value
            for name, value in (("namespace", resource.namespace), ("name", resource.name))
            if value
        }
    )


def _cell(view: View, resource: Resource, column: Column) -> Cell:
    value = value_at(view, resource, column.path)
    moment = int(value) if column.format == "time" and isinstance(value, int | float) else None
    return Cell(
        text=formatted(value, column.format),
        how=column.format,
        right=column.format in RIGHT,
        moment=moment,
        events=events_link(subject=resource.name) if column.path == "name" else "",
        spark=_spark(view, resource, column.spark) if column.spark else "",
    )


def _spark(view: View, resource: Resource, metric: str) -> Any:
    series = view.resources.series(resource.kind, resource.namespace, resource.name, metric)
    if len(series) < 2:
        return ""
    return sparkline([value for _, value in series], f"{metric} of {resource.name}")


async def _table(plugin: str, declared: Declared, view: View, chosen: Selection) -> dict[str, Any]:
    asked = query_of(declared)
    if not isinstance(asked, ResourceQuery):
        raise TypeError("a table needs a ResourceQuery")
    found = _resources(asked, view, chosen)
    paths = {column.path for column in columns_of(declared)}
    order = chosen.sort if chosen.sort.removeprefix("-") in paths else getattr(declared, "sort", "")
    if order:
        found = _sorted(view, found, order.removeprefix("-"), order.startswith("-"))
    shown = found[: asked.limit]
    address = f"/panels/{plugin}.{declared.name}"
    kept = {name: value for name, value in chosen.to_query().items() if name != "sort"}
    columns = [
        {
            "title": column.title,
            "right": column.format in RIGHT,
            "sorted": "descending"
            if order == f"-{column.path}"
            else "ascending"
            if order == column.path
            else "",
            "link": address
            + query({**kept, "sort": f"-{column.path}" if order == column.path else column.path}),
        }
        for column in columns_of(declared)
    ]
    return {
        "columns": columns,
        "rows": [
            {
                "severity": severity_of(it, declared),
                "address": _led(it),
                "cells": [_cell(view, it, column) for column in columns_of(declared)],
            }
            for it in shown
        ],
        "more": len(found) - len(shown),
    }


async def _status(plugin: str, declared: Declared, view: View, chosen: Selection) -> dict[str, Any]:
    asked = query_of(declared)
    if not isinstance(asked, ResourceQuery):
        raise TypeError("a strip of states needs a ResourceQuery")
    found = _resources(asked, view, chosen)
    # What is wrong comes first, so that a cut strip still shows it.
    found.sort(key=lambda it: -Severity[severity_of(it, declared)])
    shown = found[: asked.limit]
    return {
        "rows": [
            {
                "name": it.name,
                "namespace": it.namespace,
                "status": it.status,
                "severity": severity_of(it, declared),
                "address": _led(it),
                "events": events_link(subject=it.name),
            }
            for it in shown
        ],
        "more": len(found) - len(shown),
    }


Points = list[tuple[int, float]]


def _lines(asked: SampleQuery, view: View, chosen: Selection) -> list[tuple[Resource, Points]]:
    found = []
    for resource in view.resources.with_metric(asked.metric):
        wanted = (
            fits(asked.kind, resource.kind)
            and fits(asked.namespace, resource.namespace)
            and fits(asked.name, resource.name)
            and not resource.deleted
            and chosen.takes(resource)
        )
        if wanted:
            points = view.resources.series(
                resource.kind, resource.namespace, resource.name, asked.metric
            )
            found.append((resource, points))
    return found


COMBINE: Final[Mapping[str, Callable[[Sequence[float]], float]]] = {
    "sum": sum,
    "mean": lambda values: sum(values) / len(values),
    "max": max,
    "min": min,
}


def combined(lines: Sequence[Points], how: str) -> list[float]:
    """One series of several: each carried on until its next sample, on common steps."""
    first = min(points[0][0] for points in lines)
    last = max(points[-1][0] for points in lines)
    step = max((last - first) / BUCKETS, 1.0)
    found: list[float] = []
    places = [0] * len(lines)
    for bucket in range(BUCKETS + 1):
        moment = first + bucket * step
        values = []
        for number, points in enumerate(lines):
            place = places[number]
            while place < len(points) and points[place][0] <= moment:
                place += 1
            places[number] = place
            if place:
                values.append(points[place - 1][1])
        if values:
            found.append(COMBINE[how](values))
    return found


async def _number(plugin: str, declared: Declared, view: View, chosen: Selection) -> dict[str, Any]:
    asked = query_of(declared)
    if not isinstance(asked, SampleQuery):
        raise TypeError("a number needs a SampleQuery")
    lines = _lines(asked, view, chosen)
    if not lines:
        return {"value": None}
    newest = COMBINE[asked.combine]([points[-1][1] for _, points in lines])
    several = len(lines) > 1
    values = (
        combined([points for _, points in lines], asked.combine)
        if several
        else [value for _, value in lines[0][1]]
    )
    return {
        "value": newest,
        "unit": "",
        "picture": sparkline(values, declared.title) if len(values) > 1 else "",
        "count": len(lines),
        "combine": asked.combine,
        "single": lines[0][0].name,
    }


async def _series(plugin: str, declared: Declared, view: View, chosen: Selection) -> dict[str, Any]:
    asked = query_of(declared)
    if not isinstance(asked, SampleQuery):
        raise TypeError("a time series needs a SampleQuery")
    found = _lines(asked, view, chosen)
    found.sort(key=lambda pair: -pair[1][-1][1])
    shown = found[: asked.limit]
    # A line keeps its colour while the order of values changes.
    shown.sort(key=lambda pair: pair[0].key)
    if not shown:
        return {"lines": []}
    first = min(points[0][0] for _, points in shown)
    last = max(points[-1][0] for _, points in shown)
    low = min(0.0, *(value for _, points in shown for _, value in points))
    high = nice(max(value for _, points in shown for _, value in points))
    return {
        "lines": [
            {
                "place": place % LINES,
                "name": f"{it.namespace}/{it.name}" if it.namespace else it.name,
                "newest": points[-1][1],
                "pieces": _pieces(points, first, last, low, high),
            }
            for place, (it, points) in enumerate(shown)
        ],
        "marks": [
            formatted(it, getattr(declared, "format", "number"))
            for it in (high, (low + high) / 2, low)
        ],
        "first": first,
        "last": last,
        "more": len(found) - len(shown),
    }


def nice(value: float) -> float:
    """The next figure above that people like on an axis."""
    if value <= 0:
        return 1.0
    power = 1.0
    while power * 10 <= value:
        power *= 10
    while power > value:
        power /= 10
    return next(it * power for it in (1, 2, 2.5, 5, 10) if it * power >= value)


def _pieces(points: Points, first: int, last: int, low: float, high: float) -> list[str]:
    width, height = PLOT
    across = max(last - first, 1)
    steps = sorted(after[0] - before[0] for before, after in pairwise(points))
    usual = steps[len(steps) // 2] if steps else 0
    pieces: list[list[str]] = [[]]
    before = points[0][0]
    for moment, value in points:
        if usual and moment - before > usual * GAP:
            pieces.append([])
        before = moment
        x = (moment - first) / across * width
        y = height - 1 - (value - low) / max(high - low, 1e-12) * (height - 2)
        pieces[-1].append(f"{x:.1f},{y:.1f}")
    return [" ".join(piece) for piece in pieces if len(piece) > 1]


async def _for_template(declared: Declared, view: View, chosen: Any) -> dict[str, Any]:
    asked = query_of(declared)
    if isinstance(asked, EventQuery):
        return {"events": await _event_rows(asked, view, chosen)}
    if isinstance(asked, ResourceQuery):
        return {
            "resources": [
                {
                    "resource": it,
                    "severity": severity_of(it, declared),
                    "samples": view.resources.metrics(it),
                }
                for it in _resources(asked, view, chosen)[: asked.limit]
            ]
        }
    if not isinstance(asked, SampleQuery):
        raise TypeError("a template shows events, resources or samples")
    return {
        "series": [
            {"resource": it, "points": points, "newest": points[-1][1]}
            for it, points in _lines(asked, view, chosen)[: asked.limit]
        ]
    }
