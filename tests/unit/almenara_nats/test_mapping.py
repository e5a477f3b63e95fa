import json

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from almenara.bus.codec import normalize
from almenara.signals import Event, Severity, format_time
from almenara_nats.mapping import parse_headers, read_messages

RECEIVED = 1_795_000_000_000_000


def read(payload: object, subject: str = "planning.x", **headers: str) -> Event:
    raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    (event,) = read_messages(subject, named, raw, stream="S", sequence=7, received=RECEIVED)
    return event


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


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        ({"task_id": "t"}, "agent.results.*"),
        (b"done", "agent.results.*"),
        ({"event_type": "RESULT_7f3a2b1c"}, "RESULT_7f3a2b1c"),
        ({"type": "result"}, "result"),
    ],
)
def test_message_without_type_has_its_subject_without_ids_as_type(
    payload: object, kind: str
) -> None:
    event = read(payload, "agent.results.task-8f3a2b1c")
    assert (event.type, event.subject) == (kind, "agent.results.task-8f3a2b1c")


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
    (event,) = read_messages(subject, headers, payload, stream="S", sequence=1, received=RECEIVED)
    stored = normalize(event, "x")
    assert isinstance(stored, Event)
    assert stored.id
    assert stored.type


@given(st.binary(max_size=200))
def test_every_header_block_is_parsed(block: bytes) -> None:
    parse_headers(b"NATS/1.0\r\n" + block)


TEXT = [
    (b"ERROR disk full on node zebra", Severity.ERROR),
    (b"cache warmed", Severity.INFO),
    (b"2026-11-28T10:00:00Z WARN retrying", Severity.WARN),
    (b"[2026-11-28 10:00:00] [error] broken", Severity.ERROR),
    (b"time=x level=debug msg=hello", Severity.DEBUG),
    (b"E1128 10:00:00.000000 1 main.go:1] failed", Severity.ERROR),
    (b"\x1b[31mCRITICAL\x1b[0m out of memory", Severity.FATAL),
    (b"panic: runtime error", Severity.FATAL),
    (b"caf\xc3\xa9 opened, no errors", Severity.INFO),
    (b"{not json}", Severity.INFO),
]


@pytest.mark.parametrize(("payload", "severity"), TEXT)
def test_plain_text_is_data_with_a_level_and_no_problem(payload: bytes, severity: Severity) -> None:
    event = read(payload)
    assert json.loads(bytes(event.data)) == payload.decode()
    assert event.problem is None
    assert event.raw is None
    assert event.severity is severity


def test_broken_json_is_searchable_and_marked() -> None:
    event = read(b'{"order": "zebra"')
    assert json.loads(bytes(event.data)) == '{"order": "zebra"'
    assert event.problem is not None


@pytest.mark.parametrize(
    "payload",
    [
        b"12345678901234567.891",
        b'{"a": 0.1000, "b":1e3}',
        b'{"a":1,"a":2}',
        b'{ "pretty" :\n [ 1 ] }',
        b'"\\u00e9"',
    ],
)
def test_json_is_stored_as_the_bytes_that_arrived(payload: bytes) -> None:
    attributes = {"specversion": "1.0", "id": "c", "source": "/s", "type": "t"}
    assert bytes(read(payload).data) == payload
    structured = json.dumps(attributes)[:-1].encode() + b', "data": ' + payload + b"}"
    assert bytes(read(structured).data) == payload
    headers = {f"ce-{name}": value for name, value in attributes.items()}
    assert bytes(read(payload, **headers).data) == payload


def test_cloudevent_headers_are_percent_decoded() -> None:
    headers = {
        "ce-specversion": "1.0", "ce-id": "c", "ce-source": "/s", "ce-type": "t",
        "ce-subject": "caf%C3%A9", "ce-city": "M%C3%BCnchen%20%25", "other": "100%25",
    }  # fmt: skip
    event = read({}, **headers)
    assert event.subject == "café"
    assert event.attributes["city"] == "München %"
    assert event.attributes["other"] == "100%25"


@pytest.mark.parametrize("name", ["subject", "time", "correlationid", "traceparent", "severity"])
def test_null_attribute_of_a_cloudevent_is_absent(name: str) -> None:
    attributes = {"specversion": "1.0", "id": "c", "source": "/s", "type": "t", "data": 1}
    without, with_null = read(attributes), read({**attributes, name: None})
    assert msgspec.structs.replace(with_null, data=None) == msgspec.structs.replace(
        without, data=None
    )


@pytest.mark.parametrize("binary", [True, False])
def test_cloudevent_without_an_id_is_named_by_its_place(binary: bool) -> None:
    attributes: dict[str, str | None] = {"specversion": "1.0", "source": "/s", "type": "t"}
    headers = {f"ce-{name}": str(value) for name, value in attributes.items()}
    event = read({}, **headers) if binary else read({**attributes, "id": None})
    assert (event.id, event.source, event.type) == (f"S@{RECEIVED}:7", "/s", "t")
    assert event.problem is None


def test_place_is_the_identity_where_it_is_requested() -> None:
    def identify(sequence: int, by_place: bool) -> str:
        (event,) = read_messages(
            "s", {"nats-msg-id": "m"}, b"{}", stream="S", sequence=sequence, received=RECEIVED,
            by_place=by_place,
        )  # fmt: skip
        return event.deduplication_key

    assert identify(7, True) == f"nats/S@{RECEIVED}:7"
    assert identify(8, True) != identify(7, True)
    assert identify(7, False) == identify(0, True) == ""


@pytest.mark.parametrize(
    ("payload", "severity"),
    [
        ({"severityText": "WARN"}, Severity.WARN),
        ({"severityNumber": 17}, Severity.ERROR),
        ({"severityNumber": 2}, Severity.DEBUG),
        ({"level": 50, "msg": "x"}, Severity.ERROR),
        ({"levelname": "CRITICAL"}, Severity.FATAL),
        ({"@l": "Warning"}, Severity.WARN),
        ({"log.level": "error"}, Severity.ERROR),
        ({"log": {"level": "error"}}, Severity.ERROR),
        ({"level": 3}, Severity.INFO),
        ({"level": 3, "version": "1.1", "short_message": "x"}, Severity.ERROR),
        ({"level": True, "short_message": "x"}, Severity.INFO),
        ({"lvl": "eror"}, Severity.INFO),
        ({"lvl": "crit"}, Severity.FATAL),
        ({"@level": "warn", "@message": "x"}, Severity.WARN),
        ({"Level": "Error"}, Severity.ERROR),
        ({"LogLevel": "Critical"}, Severity.FATAL),
        ({"level": "SEVERE"}, Severity.ERROR),
        ({"level": "dpanic"}, Severity.FATAL),
        ({"type": "io.nats.jetstream.advisory.v1.max_deliver"}, Severity.ERROR),
        ({"type": "io.nats.jetstream.advisory.v1.stream_leader_elected"}, Severity.INFO),
        ({"type": "io.nats.jetstream.advisory.v1.consumer_quorum_lost"}, Severity.ERROR),
    ],
)
def test_severity_is_read_as_common_loggers_write_it(
    payload: dict[str, object], severity: Severity
) -> None:
    assert read(payload, "x").severity is severity


@pytest.mark.parametrize("name", ["time", "ts", "@timestamp", "timestamp", "@t", "timeUnixNano"])
@pytest.mark.parametrize(
    "value",
    ["2025-10-17T10:00:00Z", 1760695200, 1760695200000, "1760695200000000000",
     "2025-10-17 10:00:00,000"],
)  # fmt: skip
def test_time_is_read_as_common_loggers_write_it(name: str, value: object) -> None:
    assert format_time(read({name: value}).time) == "2025-10-17T10:00:00.000000Z"


def test_byte_order_mark_is_not_part_of_the_json() -> None:
    assert read(b'\xef\xbb\xbf{"event_type": "x"}').type == "x"
