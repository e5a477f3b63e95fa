"""The links from a source to its events."""

import pytest

from almenara.panels.builtin.sources import select_events
from almenara.signals import Event
from almenara.supervisor import SourceState


@pytest.mark.parametrize(
    ("plugin", "name", "origin", "is_listed"),
    [
        ("kubernetes", "kubernetes", "kubernetes", True),
        ("ray", "ray/lab", "ray/lab", True),
        ("ray", "ray/lab", "ray/lab/failed", True),
        ("ray", "ray/lab", "ray/lab-2", False),
        ("nats", "nats", "nats/ORDERS", True),
        ("intake", "intake/app", "intake/app", True),
        ("intake", "intake/app", "intake/app/other", False),
    ],
)
def test_link_of_a_source_lists_its_own_events_and_those_of_its_parts(
    plugin: str, name: str, origin: str, is_listed: bool
) -> None:
    chosen = select_events(SourceState(name=name, plugin=plugin))
    event = Event(id="1", source="s", type="t", time=0, origin=origin, data=None)
    assert chosen.matches(event) is is_listed


def test_link_of_the_alerts_lists_alerts_about_signals_of_other_sources() -> None:
    chosen = select_events(SourceState(name="alerts", plugin="alerts"))
    event = Event(
        id="1", source="almenara.alerting", type="a.firing", time=0, origin="kubernetes",
        data=None,
    )  # fmt: skip
    assert chosen.matches(event)
