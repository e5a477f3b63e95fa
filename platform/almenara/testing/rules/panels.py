"""Rules about the panels of a plugin."""

import html
import re
from collections.abc import Sequence
from typing import Any, Final

from almenara.hookspecs import Column, EventQuery, LogQuery, Panel, SampleQuery
from almenara.signals import Event, Resource, Sample, Severity, Signal, now
from almenara.testing.rendering import render_panels
from almenara.testing.rules.subject import Skip, Subject, memory_context

HOSTILE: Final = "<script>alert('x')</script>\"'><img src=x onerror=alert(1)>"


async def escapes_what_it_renders(subject: Subject) -> None:
    hooks, settings = subject.plugins.hooks, subject.settings()
    panels = hooks.panels(subject.name, settings)
    if not panels:
        raise Skip("it has no panel with these settings")
    templates, pages = hooks.templates(subject.name), hooks.pages(subject.name, settings)
    with memory_context() as context:
        text_streams = hooks.text_streams(subject.name, settings, context)
    for panel in panels:
        rendered = await render_panels(
            subject.name, panels, templates, _hostile_signals(panel), pages=pages,
            text_streams=text_streams, only=panel.name,
        )  # fmt: skip

        text = rendered[f"{subject.name}.{panel.name}"]
        if 'class="broken-panel"' in text:
            reason = " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())
            raise AssertionError(f"panel {panel.name} cannot be rendered: {reason}")
        if "<script>alert" in text or "<img src=x" in text:
            raise AssertionError(
                f"panel {panel.name} does not escape what signals hold; do not use the filter safe"
                " on signals"
            )


def _hostile_signals(panel: Panel) -> list[Signal]:
    """Signals that a panel shows, with HTML in every text."""
    query: Any = getattr(panel, "query", None)
    if isinstance(query, EventQuery):
        return [_hostile_event(query)]
    if isinstance(query, LogQuery):
        # Its lines are rendered by a template of the platform.
        return []
    columns: Sequence[Column] = getattr(panel, "columns", ())
    identity: dict[str, Any] = {
        "kind": query.kind.replace("*", "x").replace(">", "x"),
        "name": query.name.replace("*", "x").replace(">", "x") or HOSTILE,
        "namespace": query.namespace.replace("*", "x") or HOSTILE,
    }
    metrics = {query.metric} if isinstance(query, SampleQuery) else set()
    for column in columns:
        metrics |= {column.path.removeprefix("sample.")} if "sample." in column.path else set()
        metrics |= {column.spark} if column.spark else set()
    return [
        Resource(**identity, status=HOSTILE, state=_hostile_state(columns) or {"text": HOSTILE}),
        *(
            Sample(**identity, metric=metric, value=float(value), unit=HOSTILE, time=now() + value)
            for metric in sorted(metrics)
            for value in range(3)
        ),
    ]


def _hostile_event(query: EventQuery) -> Event:
    return Event(
        id="1",
        source=HOSTILE,
        type=str(query.filter.get("type", HOSTILE)).replace("*", "x").replace(">", "x"),
        subject=HOSTILE,
        time=now(),
        severity=Severity[str(query.filter.get("severity", "ERROR"))],
        data={HOSTILE: HOSTILE},
    )


def _hostile_state(columns: Sequence[Column]) -> dict[str, Any]:
    """A state with hostile text at the path of each column that shows a part of it."""
    state: dict[str, Any] = {}
    for column in columns:
        if column.path.startswith("state."):
            *levels, last = column.path.removeprefix("state.").split(".")
            place = state
            for level in levels:
                place = place.setdefault(level, {})
            place[last] = HOSTILE
    return state
