import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from almenara.cloudevents import (
    CloudEventError,
    from_binary,
    from_structured,
    to_binary,
    to_structured,
)
from almenara.signals import Event, Severity, format_time, parse_severity, parse_time

EVENT = Event(
    id="1",
    source="/fleet",
    type="t.x",
    subject="s",
    time=parse_time("2026-01-02T03:04:05.678901Z"),
    data={"a": [1, None, "\u00e9"]},
    severity=Severity.WARN,
    correlation="c-1",
    attributes={"traceparent": "00-1-2-01"},
)


def test_an_event_survives_the_structured_mode_of_cloudevents() -> None:
    body = json.loads(msgspec.json.encode(to_structured(EVENT)))
    assert body["specversion"] == "1.0"
    assert body["time"] == "2026-01-02T03:04:05.678901Z"
    assert from_structured(body, received=0) == EVENT


def test_an_event_survives_the_binary_mode_of_cloudevents() -> None:
    headers, payload = to_binary(EVENT)
    assert headers["ce-traceparent"] == "00-1-2-01"
    assert from_binary(headers, json.loads(payload), received=0) == EVENT


def test_bytes_that_are_no_json_survive_as_base64() -> None:
    event = msgspec.structs.replace(EVENT, data=None, raw=b"\xff\x00")
    found = from_structured(to_structured(event), received=0)
    assert found.raw == b"\xff\x00"


@pytest.mark.parametrize("missing", ["id", "source", "type", "specversion"])
def test_a_cloudevent_without_what_it_needs_is_refused_by_name(missing: str) -> None:
    body = {"specversion": "1.0", "id": "1", "source": "s", "type": "t"}
    del body[missing]
    with pytest.raises(CloudEventError, match=missing):
        from_structured(body, received=0)


def test_a_time_that_cannot_be_read_is_marked_and_replaced() -> None:
    body = {"specversion": "1.0", "id": "1", "source": "s", "type": "t", "time": "soon"}
    event = from_structured(body, received=42)
    assert event.time == 42
    assert event.problem is not None
    assert "soon" in event.problem


@given(st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999))
def test_every_moment_of_the_calendar_is_written_and_read_back(moment: int) -> None:
    assert parse_time(format_time(moment)) == moment


def test_severities_go_by_their_opentelemetry_names() -> None:
    assert parse_severity(" warn ") is Severity.WARN
    with pytest.raises(ValueError, match="DEBUG, INFO, WARN, ERROR, FATAL"):
        parse_severity("bad")
