"""Pages as a browser without scripts gets them."""

import re

import pytest

from support.application import Almenara


@pytest.mark.parametrize(
    ("address", "is_live"),
    [
        ("/events", True),
        ("/events?since=1h", True),
        ("/events?until=2200-01-01T00:00:00Z", True),
        ("/events?until=5min", False),
        ("/events?since=2026-01-01T00:00:00Z&until=2026-01-02T00:00:00Z", False),
        ("/events?before=5", False),
    ],
)
def test_events_page_is_live_unless_its_range_has_ended(
    idle_almenara: Almenara, address: str, is_live: bool
) -> None:
    page = idle_almenara.text(address)
    assert ("hx-ws:connect" in page) == is_live
    assert ('id="pause"' in page) == is_live
    assert ("not live" in page) != is_live


def test_overview_has_a_visible_title_and_no_empty_row(almenara: Almenara) -> None:
    page = almenara.text("/")
    assert "<h1>Overview</h1>" in page
    widths = [int(width) for width in re.findall(r'data-width="(\d+)"', page)]
    row = 0
    for width in widths:
        row = width if row + width > 12 else row + width
        assert row <= 12
    assert row == 12
