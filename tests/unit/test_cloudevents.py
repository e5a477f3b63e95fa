import json

import msgspec
import pytest

from almenara.cloudevents import (
    CloudEventError,
    from_binary,
    from_structured,
    is_structured,
    parse_structured,
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
    restored = from_structured(to_structured(event), received=0)
    assert restored.raw == b"\xff\x00"


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


def test_from_structured_treats_null_as_absent() -> None:
    body = {
        "specversion": "1.0", "id": "1", "source": "s", "type": "t", "subject": None, "time": None,
        "severity": None, "correlationid": None, "tenant": None, "data": None, "data_base64": None,
    }  # fmt: skip
    event = from_structured(body, received=42)
    assert (event.subject, event.time, event.correlation, event.attributes) == ("", 42, None, {})
    assert event.problem is None
    assert event.data is None
    for name in ("id", "source", "type", "specversion"):
        with pytest.raises(CloudEventError, match=f"has no {name}"):
            from_structured({**body, name: None}, received=42)


def test_default_id_stands_in_for_a_missing_one() -> None:
    body = {"specversion": "1.0", "source": "s", "type": "t"}
    for missing in (body, {**body, "id": None}):
        assert is_structured(missing)
        assert from_structured(missing, received=0, default_id="S@7").id == "S@7"
        assert parse_structured(msgspec.json.encode(missing), received=0, default_id="S@7").id == (
            "S@7"
        )
    assert not is_structured({"specversion": "1.0", "source": None, "type": "t"})


@pytest.mark.parametrize(
    "data",
    [b"12345678901234567.891", b"0.1000", b'{"a":1,"a":2}', b'{ "a" :\n[1e3] }', b'"\\u00e9"'],
)
def test_parse_structured_keeps_data_as_it_came(data: bytes) -> None:
    payload = b'{"specversion":"1.0","id":"1","source":"s","type":"t","n":5,"data":%b}' % data
    event = parse_structured(payload, received=0)
    assert bytes(event.data) == data
    assert event.attributes == {"n": "5"}


@pytest.mark.parametrize("payload", [b"", b"[1]", b'{"a"', b"\xff", b"null"])
def test_parse_structured_refuses_what_is_not_an_object(payload: bytes) -> None:
    with pytest.raises(CloudEventError, match="not a JSON object"):
        parse_structured(payload, received=0)


def test_binary_headers_are_percent_encoded() -> None:
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "s", "ce-type": "t",
               "ce-subject": "caf%C3%A9%20%F0%9F%98%80", "ce-odd": "100%",
               "ce-bytes": "%ff"}  # fmt: skip
    event = from_binary(headers, None, received=0)
    assert event.subject == "café 😀"
    assert event.attributes == {"odd": "100%", "bytes": "%ff"}
    written, _ = to_binary(event)
    assert written["ce-subject"] == "caf%C3%A9%20%F0%9F%98%80"
    assert from_binary(written, None, received=0).attributes == event.attributes


def test_to_structured_leaves_out_a_time_outside_the_calendar() -> None:
    assert "time" not in to_structured(msgspec.structs.replace(EVENT, time=2**62))
