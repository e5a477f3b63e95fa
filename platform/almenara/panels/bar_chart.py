"""Bars of a chart, one for each step, in the units of a picture."""

from collections.abc import Sequence
from typing import Final

import msgspec

from almenara.panels.charts import ChartLevel
from almenara.panels.line_chart import WIDTH, Points
from almenara.signals import Severity

HEIGHT: Final = 24.0
SHARE: Final = 0.8
"""Of the width of a step, what its bar takes."""
LEAST: Final = 1.5
"""Height of the bar of a zero, which is no gap."""
HEALTHY: Final = "ok"
"""The tone of a bar beside all levels that colour bars."""


class BarRow(msgspec.Struct, frozen=True, kw_only=True):
    """The bars of a line."""

    name: str
    newest: float
    paths: Sequence[tuple[str, str]]
    """Tone and path."""


def tone_of(value: float, levels: Sequence[ChartLevel]) -> str:
    """Return the severity that levels give a bar, or `HEALTHY`; empty where none colours bars."""
    coloring = [level for level in levels if level.colors]
    if not coloring:
        return ""
    severities = [
        Severity[level.severity]
        for level in coloring
        if (value < level.value if level.colors == "below" else value > level.value)
    ]
    return max(severities).name if severities else HEALTHY


def draw_bars(
    points: Points, first: int, last: int, step: int, high: float, levels: Sequence[ChartLevel]
) -> list[tuple[str, str]]:
    """Return the tones and paths of bars between two times; a step without a point has none."""
    span = max(last - first, 1)
    paths: dict[str, list[str]] = {}
    for time, value in points:
        start = max((time - first) / span * WIDTH, 0.0)
        width = min((time + step * SHARE - first) / span * WIDTH, WIDTH) - start
        height = max(min(value / high, 1.0) * HEIGHT, LEAST) if high > 0 else LEAST
        if width > 0:
            paths.setdefault(tone_of(value, levels), []).append(
                f"M{start:.1f} {HEIGHT:g}v-{height:.1f}h{width:.1f}v{height:.1f}z"
            )
    return [(tone, "".join(parts)) for tone, parts in paths.items()]
