"""The panel of streams lists those of events, whatever else an account stores."""

import re

import pytest

from almenara.signals import Resource, Severity, Signal
from almenara.testing import render_panel

pytestmark = pytest.mark.anyio
BUCKETS = [
    Resource(kind="nats.stream", name=f"KV_{number:03}", status="ok",
             state={"used_as": "key-value bucket"})
    for number in range(210)
]  # fmt: skip


def stream(name: str, status: str = "ok", severity: Severity = Severity.INFO) -> Resource:
    return Resource(kind="nats.stream", name=name, status=status, severity=severity)


async def render(*signals: Signal) -> tuple[list[str], str]:
    """The streams that are listed, and the text of the panel."""
    html = await render_panel("nats", "streams", signals)
    return re.findall(r'<th scope="row"><a[^>]*>([^<]*)</a>', html), html


async def test_streams_are_listed_after_any_number_of_buckets() -> None:
    offline = stream("ORDERS", "offline", Severity.ERROR)
    names, html = await render(*BUCKETS, offline, stream("PAYMENTS"))
    assert names == ["ORDERS", "PAYMENTS"]
    assert "offline" in html
    assert "Not listed: 210 key-value buckets" in html
    assert "more stream" not in html


async def test_of_too_many_streams_those_with_problems_are_listed() -> None:
    streams = [stream(f"S{number:03}") for number in range(210)]
    offline = stream("ZONES", "offline", Severity.ERROR)
    stalled = Resource(
        kind="nats.consumer", namespace="S209", name="workers", status="stalled",
        severity=Severity.WARN, state={"since": 1},
    )  # fmt: skip
    names, html = await render(*streams, offline, stalled)
    assert names == [*(f"S{number:03}" for number in range(198)), "S209", "ZONES"]
    assert ">11 more streams</a>" in html
