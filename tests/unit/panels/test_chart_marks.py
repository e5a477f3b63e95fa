"""Which alerts a chart marks."""

import pytest

from almenara.panels.kinds.chart_marks import ALERTS, limit_to_plugin


@pytest.mark.parametrize(
    ("kind", "origin"),
    [
        ("nats.stream", "nats/**"),
        ("ray.*", "ray/**"),
        # Of no plugin, of any, and of the core.
        ("pod", None),
        ("*.node", None),
        (">", None),
        ("almenara.server", None),
    ],
)
def test_limit_to_plugin_selects_alerts_of_its_sources(kind: str, origin: str | None) -> None:
    assert limit_to_plugin(ALERTS, kind).filter.get("origin") == origin
