"""The panels of the core itself, which every Almenara has."""

from typing import Final

from almenara.panels.builtin import events, failures, histogram, numbers, sources

BUILTIN_PANELS: Final = (
    sources.STRIP,
    numbers.PANEL,
    failures.PANEL,
    events.PANEL,
    histogram.PANEL,
    sources.PANEL,
)
