"""Payloads that are compressed, binary, in UTF-16, no strict JSON, or several events."""

import gzip
import json
import sys
import zlib
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import cbor2
import msgspec
import pytest
from hypothesis import example, given, strategies as st

from almenara.bus.codec import normalize
from almenara.signals import Event
from almenara_nats.binary_formats import ProtobufDecoder, decode_cbor, matches_subject
from almenara_nats.encodings import quote_special_numbers
from almenara_nats.mapping import read_messages
from support.protobuf import NOTE, write_schema

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

RECEIVED = 1_795_000_000_000_000
BODY = {"event_type": "STORY_CREATED", "story_id": "US-101", "level": "error"}
JSON = json.dumps(BODY).encode()
CLOUDEVENT = {"specversion": "1.0", "source": "/s", "type": "t", "data": {"n": 1}}
BATCH = {"content-type": "application/cloudevents-batch+json; charset=utf-8"}
# As `pack({"event_type": …})` of other libraries: text keys, a byte string, a time, an extension.
MSGPACK = msgspec.msgpack.encode({**BODY, "raw": b"\x00\xff", 7: msgspec.msgpack.Ext(5, b"x")})
# A decimal fraction, a time, a set, a key that is no text, undefined, and an unregistered tag.
CBOR = cbor2.dumps(
    {
        **BODY, "price": Decimal("2.5"), "at": datetime(2026, 1, 31, tzinfo=UTC), 7: b"\x00\xff",
        "set": {1}, "none": cbor2.undefined, "tag": cbor2.CBORTag(6_000, "x"),
    }
)  # fmt: skip
SHARED = bytes.fromhex("82d81c81f6d81d00")
"""CBOR in which one list stands at two places."""
REPEATED = bytes.fromhex("d901008263616263d81900")
"""CBOR in which one string stands at two places."""


def read_all(payload: bytes, **headers: str) -> list[Event]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    events = read_messages(
        "planning.x", named, payload, stream="S", sequence=7, received=RECEIVED, by_place=True
    )
    assert all(normalize(event, "x") for event in events)
    return events


def read(payload: bytes, **headers: str) -> Event:
    (event,) = read_all(payload, **headers)
    return event


@pytest.mark.parametrize(
    ("payload", "headers"),
    [
        (gzip.compress(JSON, mtime=0), {"content_encoding": "gzip"}),
        (gzip.compress(JSON, mtime=0), {"content_encoding": "X-GZIP"}),
        (zlib.compress(JSON), {"content_encoding": "deflate"}),
        (zlib.compress(JSON)[2:-4], {"content_encoding": "deflate"}),
        (JSON, {"content_encoding": "identity"}),
        (MSGPACK, {"content_type": "application/msgpack"}),
        (gzip.compress(MSGPACK, mtime=0), {"content_type": "application/x-msgpack",
                                  "content_encoding": "gzip"}),
        (CBOR, {"content_type": "application/cbor"}),
        (zstd.compress(CBOR), {"content_type": "application/cbor", "content_encoding": "zstd"}),
        (zstd.compress(JSON), {"content_encoding": "zstd"}),
        (JSON.decode().encode("utf-16"), {}),
        (JSON.decode().encode("utf-16-be"), {"content_type": "application/json; charset=utf-16"}),
        (JSON.decode().encode("utf-16-le"), {"content_type": "application/json;charset=UTF-16LE"}),
    ],
)  # fmt: skip
def test_encoded_payload_is_read_as_what_it_contains(
    payload: bytes, headers: dict[str, str]
) -> None:
    event = read(payload, **headers)
    assert (event.type, event.correlation, event.severity.name) == (
        "STORY_CREATED", "US-101", "ERROR",
    )  # fmt: skip
    assert json.loads(bytes(event.data)).items() >= BODY.items()
    assert (event.problem, event.raw) == (None, None)


@pytest.mark.parametrize(
    ("payload", "headers", "reason"),
    [
        (b"zstd" * 5, {"content_encoding": "zstd"}, "it is not zstd"),
        (zstd.compress(JSON)[:-3], {"content_encoding": "zstd"}, "cut off"),
        (zstd.compress(b"0" * 2_000_000), {"content_encoding": "zstd"}, "1,048,576 bytes once"),
        (b"\xff\x06\x00\x00sNaPpY", {"content_encoding": "snappy"}, "'snappy' is not decoded"),
        (b"\xa1aa", {"content_type": "application/cbor"}, "CBOR"),
        (b"\x81" * 100_000, {"content_type": "application/cbor"}, "nesting"),
        (b"\xc1\x1b" + b"\xff" * 8, {"content_type": "application/cbor"}, "CBOR"),
        (SHARED, {"content_type": "application/cbor"}, "references"),
        (REPEATED, {"content_type": "application/cbor"}, "references"),
        (b"\x0a\x01x", {"content_type": "application/x-protobuf"}, "unknown schema"),
        (b"Obj\x01", {"content_type": "avro/binary"}, "it is Avro"),
        (JSON, {"content_encoding": "gzip"}, "it is not gzip"),
        (gzip.compress(JSON, mtime=0)[:-12], {"content_encoding": "gzip"}, "cut off"),
        (
            gzip.compress(b"0" * 2_000_000, mtime=0),
            {"content_encoding": "gzip"},
            "1,048,576 bytes once",
        ),
        (b"\x91" * 100_000, {"content_type": "application/msgpack"}, "nested"),
        (b"\xdd\xff\xff\xff\xff", {"content_type": "application/msgpack"}, "MessagePack"),
        (b"\x81\xc0\x01", {"content_type": "application/msgpack"}, "MessagePack"),
        (b"\xff\xfe\x00\xd8", {}, "UTF-16"),
    ],
)
def test_payload_that_is_not_decoded_is_stored_and_named(
    payload: bytes, headers: dict[str, str], reason: str
) -> None:
    event = read(payload, **headers)
    assert event.problem is not None
    assert reason in event.problem
    assert event.raw == payload[:65_536]


def test_numbers_that_json_lacks_are_stored_as_text_and_marked() -> None:
    body = {**BODY, "loss": float("nan"), "best": float("inf"), "worst": -float("inf")}
    body["text"] = 'NaN is "Infinity", \\ NaN'
    event = read(json.dumps(body).encode())
    assert event.type == "STORY_CREATED"
    stored = json.loads(bytes(event.data), parse_constant=pytest.fail)
    assert stored == {**body, "loss": "NaN", "best": "Infinity", "worst": "-Infinity"}
    assert "no NaN" in str(event.problem)
    event = read(json.dumps({**CLOUDEVENT, "id": "1", "data": {"loss": float("nan")}}).encode())
    assert (event.id, json.loads(bytes(event.data))) == ("1", {"loss": "NaN"})
    assert read(b'{"a": NaNa}').raw == b'{"a": NaNa}'


@given(st.binary(max_size=200))
@example(b'"' + b"\\" * 199)
@example(b'"\\"' * 60)
def test_quote_special_numbers_changes_nothing_else(content: bytes) -> None:
    quoted = quote_special_numbers(content)
    for number in (b"-Infinity", b"Infinity", b"NaN"):
        quoted = quoted.replace(b'"' + number + b'"', number)
        content = content.replace(b'"' + number + b'"', number)
    assert quoted == content


def test_quote_special_numbers_is_linear_for_text_without_an_end() -> None:
    for unit in (b'"', b'\\"', b'"\\', b"NaN", b"-"):
        quote_special_numbers(unit * 500_000)


def test_batch_of_cloudevents_is_one_event_each() -> None:
    batch = [{**CLOUDEVENT, "id": "a"}, CLOUDEVENT, {"event_type": "plain"}]
    events = read_all(json.dumps(batch).encode(), content_type=BATCH["content-type"])
    place = f"S@{RECEIVED}:7"
    assert [event.id for event in events] == ["a", f"{place}/2", f"{place}/3"]
    assert [event.type for event in events] == ["t", "t", "plain"]
    assert [event.deduplication_key for event in events] == [
        f"nats/{place}/{item}" for item in (1, 2, 3)
    ]
    assert json.loads(bytes(events[0].data)) == {"n": 1}
    assert [event.problem for event in events] == [
        None, None, "this item of its batch is no CloudEvent",
    ]  # fmt: skip


@pytest.mark.parametrize("payload", [b"[]", b"{}", b"[1,", b"[" + b"{}," * 1_000 + b"{}]", b"\xff"])
def test_batch_that_is_none_or_too_long_is_one_event(payload: bytes) -> None:
    assert len(read_all(payload, content_type=BATCH["content-type"])) == 1


@given(
    st.binary(max_size=200),
    st.sampled_from(["", "gzip", "deflate", "zstd", "br"]),
    st.sampled_from(
        ["", "application/msgpack", "application/json; charset=utf-16", BATCH["content-type"]]
    ),
)
def test_no_payload_fails_whatever_its_headers_declare(
    payload: bytes, encoding: str, content_type: str
) -> None:
    assert read_all(payload, content_encoding=encoding, content_type=content_type)


@given(st.binary(max_size=200))
def test_decode_cbor_returns_json_or_refuses(content: bytes) -> None:
    try:
        decoded = decode_cbor(content)
    except ValueError:
        return
    json.loads(decoded)


def read_protobuf(
    payload: bytes, decoder: ProtobufDecoder, subject: str = "notes.a", content_type: str = ""
) -> Event:
    headers = {"content-type": content_type} if content_type else {}
    (event,) = read_messages(
        subject, headers, payload, stream="S", sequence=7, received=RECEIVED, protobuf=decoder
    )
    return event


@pytest.mark.parametrize("content_type", ["", "application/protobuf"])
def test_protobuf_is_decoded_by_the_schema_of_its_subject(
    tmp_path: Path, content_type: str
) -> None:
    decoder = ProtobufDecoder([write_schema(tmp_path / "note.binpb")])
    assert decoder.load() == []
    event = read_protobuf(NOTE, decoder, content_type=content_type)
    assert (event.correlation, event.severity.name, event.problem) == ("US-101", "ERROR", None)
    assert json.loads(bytes(event.data)) == {"story_id": "US-101", "level": "error", "count": "150"}
    damaged = read_protobuf(NOTE[:-1], decoder)
    assert damaged.raw == NOTE[:-1]
    assert "it is no fleet.v1.Note" in str(damaged.problem)
    assert read_protobuf(JSON, decoder, content_type="application/json").problem is None
    assert read_protobuf(JSON, decoder, subject="other").problem is None


def test_protobuf_schema_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    schema = write_schema(tmp_path / "note.binpb")
    (tmp_path / "broken").write_bytes(b"\x0a\xff")
    for change, reason in (
        ({"descriptor_set": tmp_path / "absent"}, "absent cannot be read: No such file"),
        ({"message": "fleet.v1.Other"}, "has no message fleet.v1.Other"),
        ({"descriptor_set": tmp_path / "broken"}, "is no complete descriptor set"),
    ):
        decoder = ProtobufDecoder([msgspec.structs.replace(schema, **change)])
        (problem,) = decoder.load()
        assert reason in problem
        event = read_protobuf(NOTE, decoder)
        assert (event.raw, event.problem) == (NOTE, problem)


@pytest.mark.parametrize(
    ("pattern", "subject", "matches"),
    [
        ("a.b", "a.b", True), ("a.b", "a.c", False), ("a.b", "a.b.c", False), ("a", "a.b", False),
        ("a.*", "a.b", True), ("a.*", "a.b.c", False), ("*.b", "a.b", True),
        ("a.>", "a.b.c", True), ("a.>", "a", False), (">", "a", True),
    ],
)  # fmt: skip
def test_matches_subject_follows_the_wildcards_of_nats(
    pattern: str, subject: str, matches: bool
) -> None:
    assert matches_subject(pattern, subject) is matches
