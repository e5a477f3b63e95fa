"""How many events there were over time, with the errors among them."""

from collections.abc import Mapping
from typing import Any, Final

from almenara.history import Filter
from almenara.panels.event_rows import link_to_events
from almenara.panels.filters import EVENT_FILTERS
from almenara.panels.panel import Panel, has_matching_event
from almenara.panels.time_window import DEFAULT_SPAN
from almenara.panels.view import View
from almenara.signals import now
from almenara.units import DAY, HOUR, MINUTE, SECOND

BARS: Final = 60
BAR_WIDTHS: Final = (
    SECOND, 2 * SECOND, 5 * SECOND, 10 * SECOND, 30 * SECOND, MINUTE, 2 * MINUTE, 5 * MINUTE,
    10 * MINUTE, 30 * MINUTE, HOUR, 2 * HOUR, 6 * HOUR, 12 * HOUR, 24 * HOUR,
)  # fmt: skip
DEFAULT_RANGE: Final = 30 * MINUTE
HEIGHT: Final = 44
LEAST_HEIGHT: Final = 1.5
"""The height of a bar with a single event, so that it can be seen."""


async def prepare(view: View, filters: Filter) -> Mapping[str, Any]:
    until = min(filters.until, now()) if filters.until is not None else now()
    window = view.window
    length = DEFAULT_RANGE if window.span == DEFAULT_SPAN else window.span
    since = filters.since if filters.since is not None else until - length
    span = max(until - since, SECOND)
    days = -(-span // (BARS * DAY))
    width = next((each for each in BAR_WIDTHS if each * BARS >= span), days * DAY)
    first = since // width * width
    counts = {
        start: (count, errors)
        for start, count, errors in await view.history.buckets(
            filters, since=first, until=until, width=width
        )
    }
    # The bars are on full multiples of their width, so one or two more than `BARS` may be needed.
    bar_count = min(-(-(until - first) // width), BARS + 2)
    return {
        "bars": make_bars(filters, counts, first, width, bar_count),
        "total": sum(count for count, _ in counts.values()),
        "errors": sum(errors for _, errors in counts.values()),
        "first": first,
        "last": first + bar_count * width,
        "width": width / SECOND,
    }


def make_bars(
    filters: Filter, counts: Mapping[int, tuple[int, int]], first: int, width: int, bar_count: int
) -> list[dict[str, Any]]:
    """The bars from `first` on; each links to the events that it counts."""
    least, most = filters.since, filters.until
    top = max((count for count, _ in counts.values()), default=0)
    others = {
        name: value
        for name in EVENT_FILTERS - {"since", "until"}
        if (value := getattr(filters, name))
    }
    bars = []
    for place in range(bar_count):
        start = first + place * width
        end = start + width
        count, errors = counts.get(start, (0, 0))
        bars.append(
            {
                "place": place,
                "start": start,
                "count": count,
                "errors": errors,
                "height": scale(count, top),
                "error_height": scale(errors, top),
                # The first and the last bar may count a part of their width.
                "link": link_to_events(
                    **others,
                    since=start if least is None else max(start, least),
                    until=end if most is None else min(end, most),
                ),
            }
        )
    return bars


def scale(count: int, top: int) -> float:
    """The height of a bar where the highest counts `top`."""
    return max(round(count / top * HEIGHT, 1), LEAST_HEIGHT) if count else 0


PANEL: Final = Panel(
    name="histogram",
    title="Events over time",
    template="histogram.html",
    prepare=prepare,
    is_affected=has_matching_event,
    filters=EVENT_FILTERS,
    min_interval=1.0,
    refresh=5.0,
    has_range=True,
)
