import json

import msgspec
import pytest

from almenara.cloudevents import (
    CloudEventError,
    from_binary,
    from_structured,
    to_binary,
    to_structured,
)
from almenara.signals import Event, Severity, parse_time

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


def test_structured_mode_round_trips_an_event() -> None:
    body = json.loads(msgspec.json.encode(to_structured(EVENT)))
    assert body["specversion"] == "1.0"
    assert body["time"] == "2026-01-02T03:04:05.678901Z"
    assert from_structured(body, received=0) == EVENT


def test_binary_mode_round_trips_an_event() -> None:
    headers, payload = to_binary(EVENT)
    assert headers["ce-traceparent"] == "00-1-2-01"
    assert from_binary(headers, json.loads(payload), received=0) == EVENT


def test_structured_mode_round_trips_bytes_as_base64() -> None:
    event = msgspec.structs.replace(EVENT, data=None, raw=b"\xff\x00")
    found = from_structured(to_structured(event), received=0)
    assert found.raw == b"\xff\x00"


@pytest.mark.parametrize("missing", ["id", "source", "type", "specversion"])
def test_from_structured_names_the_missing_attribute(missing: str) -> None:
    body = {"specversion": "1.0", "id": "1", "source": "s", "type": "t"}
    del body[missing]
    with pytest.raises(CloudEventError, match=missing):
        from_structured(body, received=0)


def test_from_structured_replaces_and_marks_an_invalid_time() -> None:
    body = {"specversion": "1.0", "id": "1", "source": "s", "type": "t", "time": "soon"}
    event = from_structured(body, received=42)
    assert event.time == 42
    assert event.problem is not None
    assert "soon" in event.problem
