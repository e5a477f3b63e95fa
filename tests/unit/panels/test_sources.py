"""The links from a source to its events, and where it runs."""

import jinja2
import pytest

from almenara.panels.builtin.sources import select_events
from almenara.panels.renderer import Renderer
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


@pytest.mark.parametrize("template", ["sources.html", "strip.html"])
@pytest.mark.parametrize(
    ("replica", "text"), [("replica-2", "on replica-2"), ("", "on no replica")]
)  # fmt: skip
def test_source_on_standby_names_where_it_runs(template: str, replica: str, text: str) -> None:
    state = SourceState(name="nats", plugin="nats", status="standby", replica=replica)
    values = {
        "states": [{"state": state, "events_link": "/events", "usage": ""}],
        "write_error": None, "warnings": (), "replica_problems": ["Set bus.replica."],
    }  # fmt: skip
    html = str(Renderer().render(template, values))
    assert text in " ".join(jinja2.filters.do_striptags(html).split())
    assert ("Set bus.replica." in html) is (template == "sources.html")
    # Its rate is known to the replica that runs it.
    assert ("0/s" in html) is (template == "sources.html" and not replica)


@pytest.mark.parametrize("template", ["sources.html", "strip.html"])
def test_source_of_another_replica_has_its_status_and_rate(template: str) -> None:
    state = SourceState(
        name="nats", plugin="nats", status="degraded", replica="b", rate=7.0, is_reported=True
    )
    values = {
        "states": [{"state": state, "events_link": "/events", "usage": ""}],
        "write_error": None, "warnings": (), "replica_problems": (),
    }  # fmt: skip
    html = str(Renderer().render(template, values))
    text = " ".join(jinja2.filters.do_striptags(html).split())
    assert "degraded" in text
    assert "7/s" in text
    assert ("on b" in text) is (template == "sources.html")
