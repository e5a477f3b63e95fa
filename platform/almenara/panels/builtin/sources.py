"""The state of every source, as a strip of chips and as a table."""

from collections.abc import Mapping
from typing import Any, Final

from almenara.history import Filter
from almenara.panels.event_rows import link_to_events
from almenara.panels.formats import format_bytes
from almenara.panels.panel import Panel
from almenara.panels.view import View
from almenara.scope import ALERTING
from almenara.supervisor import SourceState
from almenara.supervisor.limiter import CORE


async def prepare(view: View, filters: Filter) -> Mapping[str, Any]:
    sees_all = view.scope.sees_all_sources
    return {
        "states": [
            {
                "state": state,
                "events_link": link_to_events(**select_events(state).to_query()),
                "usage": describe_usage(state),
            }
            for state in view.sources.states()
        ],
        "write_error": view.bus.write_problem,
        "warnings": (*view.bus.warnings, *view.resources.warnings) if sees_all else (),
        "replica_problems": view.bus.replica_problems if sees_all else (),
    }


def select_events(state: SourceState) -> Filter:
    """Return the filter of the events of a source."""
    if state.plugin == CORE:
        # An event of an alert has the origin of the signal that it is about.
        return Filter(source=ALERTING)
    # A source has events of its own name, of parts below it, or both; a sender has only the first.
    return Filter(origin=state.name if state.plugin == "intake" else f"{state.name}/**")


def describe_usage(state: SourceState) -> str:
    """What a source uses of the machine, as far as it is known: `14 tasks · 52.0 MiB`."""
    parts = []
    if state.tasks is not None:
        parts.append(f"{state.tasks} task{'' if state.tasks == 1 else 's'}")
    if state.memory is not None:
        parts.append(format_bytes(state.memory))
    return " \u00b7 ".join(parts)


STRIP: Final = Panel(
    name="strip",
    title="State of the sources",
    template="strip.html",
    prepare=prepare,
    refresh=1.0,
    bare=True,
)
PANEL: Final = Panel(
    name="sources",
    title="State of the sources",
    template="sources.html",
    prepare=prepare,
    refresh=1.0,
)
