"""The panels of the core itself, which every Almenara has."""

from typing import Final

from almenara.panels.builtin import (
    alert_detail,
    alert_rules,
    alerts,
    events,
    failures,
    histogram,
    numbers,
    receivers,
    sources,
)

BUILTIN_PANELS: Final = (
    sources.STRIP,
    numbers.PANEL,
    failures.PANEL,
    events.PANEL,
    histogram.PANEL,
    sources.PANEL,
    alerts.LIST,
    alert_detail.DETAIL,
    alerts.ATTENTION,
    alerts.BADGE,
    alert_rules.RULES,
    alert_rules.RULE,
    alert_rules.SILENCES,
    receivers.PANEL,
)
