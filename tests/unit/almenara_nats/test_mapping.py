import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from almenara.bus.codec import normalize
from almenara.signals import Event, Severity, format_time
from almenara_nats.mapping import parse_headers, read_message

RECEIVED = 1_795_000_000_000_000


def read(payload: object, subject: str = "planning.x", **headers: str) -> Event:
    raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return read_message(subject, named, raw, stream="S", sequence=7, received=RECEIVED)


def test_bare_payload_is_read() -> None:
    event = read(
        {"event_type": "STORY_CREATED", "story_id": "US-101", "timestamp": "2025-10-17T10:00:00Z"}
    )
    assert (event.type, event.correlation, event.origin) == ("STORY_CREATED", "US-101", "nats/S")
    assert format_time(event.time) == "2025-10-17T10:00:00.000000Z"
    assert event.subject == "planning.x"
    assert event.problem is None


def test_envelope_gives_id_and_correlation() -> None:
    event = read(
        {
            "event_type": "X", "payload": {"story_id": "US-1"}, "idempotency_key": "key-1",
            "correlation_id": "c-1", "timestamp": "2025-10-17T10:00:00Z", "producer": "p",
            "metadata": {},
        },
        nats_msg_id="other",
    )  # fmt: skip
    assert (event.id, event.correlation) == ("key-1", "c-1")


@pytest.mark.parametrize("binary", [True, False])
def test_cloudevent_is_read_in_both_modes(binary: bool) -> None:
    attributes = {
        "specversion": "1.0", "id": "ce-1", "source": "/fleet", "type": "t.x",
        "time": "2025-10-17T10:00:00Z", "traceparent": "00-1-2-01",
    }  # fmt: skip
    if binary:
        headers = {f"ce-{name}": value for name, value in attributes.items()}
        event = read({"story_id": "US-1"}, **headers)
    else:
        event = read({**attributes, "data": {"story_id": "US-1"}})
    assert (event.id, event.source, event.type) == ("ce-1", "/fleet", "t.x")
    assert event.origin == "nats/S"
    assert event.attributes["traceparent"] == "00-1-2-01"
    assert json.loads(bytes(event.data)) == {"story_id": "US-1"}


def test_id_falls_back_to_place_in_stream() -> None:
    assert read({"a": 1}).id == f"S@{RECEIVED}:7"
    assert read({"a": 1}, nats_msg_id="m-1").id == "m-1"


@pytest.mark.parametrize(
    ("subject", "payload", "severity"),
    [
        ("agent.response.failed", {"task_id": "t", "error": "x"}, Severity.ERROR),
        ("deadletter", {"topic": "t", "reason": "r"}, Severity.ERROR),
        ("agent.results.t", {"status": "failed"}, Severity.ERROR),
        ("agent.results.t", {"status": "completed"}, Severity.INFO),
        ("x", {"severity": "warn"}, Severity.WARN),
        ("x", {"level": "critical"}, Severity.FATAL),
        ("vllm.streaming.a", {"type": "vllm_token", "token": "failed"}, Severity.DEBUG),
    ],
)
def test_severity_is_read_from_fields_and_words(
    subject: str, payload: object, severity: Severity
) -> None:
    assert read(payload, subject).severity is severity


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "empty"),
        (b'{"a": 1', "not JSON"),
        (b'{"a": "\xff"}', "UTF-8"),
        (b"[" * 1000 + b"]" * 1000, "nested"),
        (b'{"a":' * 300 + b"1" + b"}" * 300, "nested"),
        (b'"' + b"x" * 2_000_000 + b'"', "2,000,002 bytes"),
        (b'{"a": "\x00"}', "NUL"),
    ],
)
def test_malformed_payload_is_stored_with_bytes_and_reason(payload: bytes, reason: str) -> None:
    event = read(payload)
    assert event.problem is not None
    assert reason in event.problem
    assert event.raw == payload[:65536]
    assert normalize(event, "x")


@pytest.mark.parametrize(
    "stamp", ["soon", 10**30, -5, "9999-99-99", "0001-01-01T00:00:00Z", [], {}]
)
def test_implausible_time_is_marked_and_replaced(stamp: object) -> None:
    event = read({"timestamp": stamp})
    assert event.time == RECEIVED
    assert event.problem is not None


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=300),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
            lambda inner: st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(
                    ["event_type", "timestamp", "payload", "id", "source", "type", "specversion",
                     "severity", "level", "time", "data", "correlation_id", "error", "status"]
                ) | st.text(max_size=8),
                inner,
                max_size=8,
            ),
            max_leaves=20,
        ).map(lambda body: json.dumps(body).encode()),
    ),
    st.dictionaries(st.text(max_size=20), st.text(max_size=30), max_size=5),
    st.text(min_size=1, max_size=40),
)  # fmt: skip
def test_every_message_becomes_an_event_that_the_bus_accepts(
    payload: bytes, headers: dict[str, str], subject: str
) -> None:
    event = read_message(subject, headers, payload, stream="S", sequence=1, received=RECEIVED)
    stored = normalize(event, "x")
    assert isinstance(stored, Event)
    assert stored.id
    assert stored.type


@given(st.binary(max_size=200))
def test_every_header_block_is_parsed(block: bytes) -> None:
    parse_headers(b"NATS/1.0\r\n" + block)
