"""The core's own panels, and the place where those of plugins come to stand beside them."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from almenara.bus import Record
from almenara.config import Isolation
from almenara.history import Filter
from almenara.hookspecs import Page
from almenara.hookspecs import Panel as Declared
from almenara.panels.event_rows import EVENT_FILTERS, events_link, row
from almenara.panels.kinds import NAME, built
from almenara.panels.panel import Panel, View, matching_event
from almenara.panels.renderer import Renderer, size
from almenara.panels.sparkline import sparkline
from almenara.signals import Event, Resource, Sample, Severity, now
from almenara.supervisor import SourceState

SECOND: Final = 1_000_000
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE
FAILURES: Final = 8
COUNTED: Final = 10_000
"""A figure beyond this is shown as `10,000+`: nobody reads it closer, and counting costs."""


async def prepare_events(view: View, chosen: Filter) -> Mapping[str, Any]:
    records = await view.history.events(chosen, limit=view.settings.visible_events)
    return {"rows": [row(record) for record in records], "conflated": 0, "filtered": chosen}


async def prepare_failures(view: View, chosen: Filter) -> Mapping[str, Any]:
    records = await view.history.events(Filter(severity=Severity.ERROR), limit=FAILURES)
    return {
        "rows": [row(record) for record in records],
        "all_failures": events_link(severity=Severity.ERROR),
    }


def has_failure(batch: Sequence[Record], chosen: Filter) -> bool:
    return any(
        isinstance(it.signal, Event) and it.signal.severity >= Severity.ERROR for it in batch
    )


async def prepare_numbers(view: View, chosen: Filter) -> Mapping[str, Any]:
    # The links hold the window they count; on whole minutes they stay the same between frames.
    hour_ago = (now() - HOUR) // MINUTE * MINUTE
    errors = await view.history.count(
        Filter(severity=Severity.ERROR, since=hour_ago), limit=COUNTED
    )
    states = view.supervisor.states()
    troubled = sum(state.status != "running" for state in states)
    return {
        "rate": sum(state.rate for state in states),
        "recent": events_link(since=(now() - MINUTE) // MINUTE * MINUTE),
        "errors": errors,
        "counted": COUNTED,
        "errors_link": events_link(severity=Severity.ERROR, since=hour_ago),
        "stored": await view.history.count_stored(),
        "troubled": troubled,
        "full": view.bus.write_problem,
    }


def has_event(batch: Sequence[Record], chosen: Filter) -> bool:
    return any(isinstance(it.signal, Event) for it in batch)


RUNS_IN: Final[Mapping[Isolation, str]] = {
    "thread": "own thread",
    "process": "own process",
    "task": "the server",
}


def carries(state: SourceState) -> str:
    """What a source holds of the machine, as far as that can be told apart."""
    parts = []
    if state.tasks is not None:
        parts.append(f"{state.tasks} task{'' if state.tasks == 1 else 's'}")
    if state.memory is not None:
        parts.append(size(state.memory))
    return " \u00b7 ".join(parts)


async def prepare_sources(view: View, chosen: Filter) -> Mapping[str, Any]:
    return {
        "states": [
            {
                "state": state,
                "events_link": events_link(origin=f"{state.name}/>"),
                "runs_in": RUNS_IN[state.isolation],
                "carries": carries(state),
            }
            for state in view.supervisor.states()
        ],
        "full": view.bus.write_problem,
    }


def streams_of(view: View) -> list[tuple[str, Resource]]:
    """Every stream with the prefix of the system it belongs to (`nats`), by its name."""
    found = [
        (kind.removesuffix(".stream"), stream)
        for kind in view.resources.kinds()
        if kind.endswith(".stream")
        for stream in view.resources.of_kind(kind)
        if not stream.deleted
    ]
    return sorted(found, key=lambda pair: (pair[0], pair[1].name))


async def prepare_streams(view: View, chosen: Filter) -> Mapping[str, Any]:
    minute_ago = (now() - MINUTE) // (10 * SECOND) * 10 * SECOND
    rows = []
    for system, stream in streams_of(view):
        latest = {
            metric: view.resources.latest(stream.kind, stream.namespace, stream.name, metric)
            for metric in ("rate", "messages", "bytes")
        }
        consumers = [
            consumer
            for consumer in view.resources.of_kind(f"{system}.consumer")
            if consumer.namespace == stream.name and not consumer.deleted
        ]
        pending = [
            view.resources.latest(it.kind, it.namespace, it.name, metric)
            for it in consumers
            for metric in ("pending", "ack_pending")
        ]
        stuck = [it for it in consumers if it.severity > stream.severity]
        origin = f"{system}/{stream.name}"
        series = view.resources.series(stream.kind, stream.namespace, stream.name, "rate")
        rows.append(
            {
                "stream": stream,
                "status": ", ".join(f"{it.name} {it.status}" for it in stuck) or stream.status,
                "severity": max((it.severity for it in stuck), default=stream.severity).name,
                **latest,
                "backlog": sum(value for value in pending if value is not None)
                if any(value is not None for value in pending)
                else None,
                "consumers": consumers,
                "picture": sparkline(
                    [value for _, value in series], f"messages per second of {stream.name}"
                ),
                "link": events_link(origin=origin),
                "recent_errors": events_link(
                    origin=origin, severity=Severity.ERROR, since=minute_ago
                ),
            }
        )
    return {"rows": rows}


def has_stream(batch: Sequence[Record], chosen: Filter) -> bool:
    return any(
        isinstance(it.signal, Resource | Sample)
        and it.signal.kind.endswith((".stream", ".consumer"))
        for it in batch
    )


WIDTHS: Final = (
    SECOND, 2 * SECOND, 5 * SECOND, 10 * SECOND, 30 * SECOND, MINUTE, 2 * MINUTE, 5 * MINUTE,
    10 * MINUTE, 30 * MINUTE, HOUR, 2 * HOUR, 6 * HOUR, 12 * HOUR, 24 * HOUR,
)  # fmt: skip
BARS: Final = 60


async def prepare_histogram(view: View, chosen: Filter) -> Mapping[str, Any]:
    until = min(chosen.until, now()) if chosen.until is not None else now()
    since = chosen.since if chosen.since is not None else until - 30 * MINUTE
    span = max(until - since, SECOND)
    width = next((it for it in WIDTHS if it * BARS >= span), -(-span // BARS))
    first = since // width * width
    counted = {
        start: (count, bad)
        for start, count, bad in await view.history.buckets(
            chosen, since=first, until=until, width=width
        )
    }
    top = max((count for count, _ in counted.values()), default=0)
    parts = {
        name: getattr(chosen, name)
        for name in EVENT_FILTERS - {"since", "until"}
        if getattr(chosen, name)
    }
    bars = []
    number = (until - first) // width + 1
    for place in range(min(number, BARS + 2)):
        start = first + place * width
        count, bad = counted.get(start, (0, 0))
        bars.append(
            {
                "place": place,
                "start": start,
                "count": count,
                "bad": bad,
                "height": 0 if not count else max(round(count / top * 44, 1), 1.5),
                "bad_height": 0 if not bad else max(round(bad / top * 44, 1), 1.5),
                "link": events_link(**parts, since=start, until=start + width),
            }
        )
    return {
        "bars": bars,
        "top": top,
        "total": sum(count for count, _ in counted.values()),
        "bad": sum(bad for _, bad in counted.values()),
        "first": first,
        "last": first + len(bars) * width,
        "width": width / SECOND,
    }


def core_panels() -> dict[str, Panel]:
    """The panels every Almenara has, by name."""
    panels = (
        Panel(name="strip", title="State of the sources", template="strip.html",
              prepare=prepare_sources, refresh=1.0, bare=True),
        Panel(name="numbers", title="Now", template="numbers.html", prepare=prepare_numbers,
              touched_by=has_event, pace=1.0, refresh=2.0, bare=True),
        Panel(name="streams", title="Streams", template="streams.html", prepare=prepare_streams,
              touched_by=has_stream, pace=1.0, refresh=10.0, width=7),
        Panel(name="failures", title="Newest failures", template="failures.html",
              prepare=prepare_failures, touched_by=has_failure, pace=0.25, width=5),
        Panel(name="events", title="Events", template="events.html", prepare=prepare_events,
              touched_by=matching_event, filters=EVENT_FILTERS, rows=True),
        Panel(name="histogram", title="Events over time", template="histogram.html",
              prepare=prepare_histogram, touched_by=matching_event, filters=EVENT_FILTERS,
              pace=1.0, refresh=5.0),
        Panel(name="sources", title="State of the sources", template="sources.html",
              prepare=prepare_sources, refresh=1.0),
    )  # fmt: skip
    return {panel.name: panel for panel in panels}


def led_to(
    plugin: str, declared: Declared, panels: Sequence[Declared], pages: Sequence[Page]
) -> str:
    """The address of what the names of a panel lead to; empty where that is their events.

    Raises `ValueError` for a link to what the plugin does not have.
    """
    link: str = getattr(declared, "link", "")
    if not link:
        return ""
    for kind, known in (("dashboards", pages), ("panels", panels)):
        if any(it.name == link for it in known):
            return f"/{kind}/{plugin}.{link}"
    raise ValueError(
        f"panel {declared.name!r} of plugin {plugin}: its link {link!r} is neither a page"
        " nor a panel of the plugin"
    )


class PanelRegistry(Mapping[str, Panel]):
    """Every panel there is, by name: the core's, and those that plugins add and take away."""

    def __init__(self, renderer: Renderer) -> None:
        self.renderer = renderer
        self._panels = core_panels()
        self._pages: dict[str, list[Page]] = {}

    def __getitem__(self, name: str) -> Panel:
        return self._panels[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._panels)

    def __len__(self) -> int:
        return len(self._panels)

    def add(
        self,
        plugin: str,
        panels: Sequence[Declared],
        templates: Path | Mapping[str, str] | None,
        pages: Sequence[Page] = (),
    ) -> None:
        """Take in the panels and pages of a plugin.

        Raises `ValueError` that says what is wrong with those that cannot be; the others are in.
        """
        if templates is not None:
            self.renderer.add(plugin, templates)
        wrong: list[str] = []
        for declared in panels:
            try:
                panel = built(plugin, declared, led_to(plugin, declared, panels, pages))
            except ValueError as error:
                wrong.append(str(error))
                continue
            if panel.name in self._panels:
                wrong.append(f"plugin {plugin} has two panels named {declared.name!r}")
                continue
            self._panels[panel.name] = panel
        for page in pages:
            try:
                self._add_page(plugin, page)
            except ValueError as error:
                wrong.append(str(error))
        if wrong:
            raise ValueError("; ".join(wrong))

    def _add_page(self, plugin: str, page: Page) -> None:
        here = f"page {page.name!r} of plugin {plugin}"
        if not NAME.fullmatch(page.name):
            raise ValueError(f"{here}: the name must be letters, digits, _ and - only")
        known = self._pages.setdefault(plugin, [])
        if any(it.name == page.name for it in known):
            raise ValueError(f"{here}: there are two of them")
        for placed in page.panels:
            name = placed if isinstance(placed, str) else placed.panel
            if self.panel_of(plugin, name) is None:
                own = [it.name.partition(".")[2] for it in self.of_plugin(plugin)]
                near = difflib.get_close_matches(name, own, n=1)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(own)}"
                raise ValueError(f"{here}: there is no panel {name!r}; {hint}")
        known.append(page)

    def panel_of(self, plugin: str, name: str) -> Panel | None:
        """The panel that a page of a plugin means by a name: its own, or another's whole name."""
        return self._panels.get(f"{plugin}.{name}") or self._panels.get(name)

    def pages_of(self, plugin: str) -> Sequence[Page]:
        """The pages of a plugin, as it ordered them."""
        return self._pages.get(plugin, ())

    def remove(self, plugin: str) -> None:
        """Forget the panels, pages and templates of a plugin."""
        self.renderer.remove(plugin)
        self._pages.pop(plugin, None)
        self._panels = {
            name: panel for name, panel in self._panels.items() if panel.plugin != plugin
        }

    def of_plugin(self, plugin: str) -> list[Panel]:
        """The panels of a plugin, as it ordered them."""
        return [panel for panel in self._panels.values() if panel.plugin == plugin]

    def plugins(self) -> list[str]:
        """The plugins that have panels, by name."""
        return sorted({panel.plugin for panel in self._panels.values() if panel.plugin})
