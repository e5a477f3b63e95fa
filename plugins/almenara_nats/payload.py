"""Parses the payload of a message: JSON, text, or bytes that are neither."""

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from almenara_nats.encodings import quote_special_numbers

DEEPEST: Final = 200
"""Levels of nesting that every reader of the history can handle."""
BINARY: Final = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
"""Characters that plain text does not contain; ESC begins the colours of terminals."""
JSON_START: Final = re.compile(r"\s*(\{\s*[\"}]|\[\s*[\[{\"])")
"""How objects and arrays begin; a line such as `[2026-01-31] ERROR x` or `{x}` is text."""
SPECIAL_NUMBERS: Final = "JSON has no NaN and no Infinity; they are stored as text"
BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class KnownFields(msgspec.Struct):
    """The fields that are read of a message which is too long to be parsed as a whole."""

    specversion: Any = None
    id: Any = None
    source: Any = None
    type: Any = None
    subject: Any = None
    time: Any = None
    severity: Any = None
    level: Any = None
    event_type: Any = None
    timestamp: Any = None
    idempotency_key: Any = None
    correlation_id: Any = None
    correlationid: Any = None
    traceparent: Any = None
    tracestate: Any = None
    story_id: Any = None
    task_id: Any = None
    status: Any = None
    error: Any = None
    error_type: Any = None


class Payload(msgspec.Struct):
    """A parsed payload."""

    data: Any = None
    """The payload as JSON (`msgspec.Raw`): the bytes as they came, or a string of the text."""
    fields: dict[str, Any] = {}
    """The fields of a JSON object; empty for anything else."""
    text: str | None = None
    """The payload where it is plain text."""
    raw: bytes | None = None
    """The first bytes of a payload that could not be parsed."""
    problem: str = ""
    """Why it could not be parsed."""

    def is_whole(self, payload: bytes) -> bool:
        """Whether all bytes of a payload that could not be parsed are stored."""
        return self.raw is not None and len(self.raw) == len(payload)


class StructuredEvent(msgspec.Struct):
    """The part of a structured CloudEvent whose bytes are stored unchanged."""

    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


decode_json = msgspec.json.Decoder().decode
decode_known_fields = msgspec.json.Decoder(KnownFields).decode
decode_structured = msgspec.json.Decoder(StructuredEvent).decode


def parse_payload(payload: bytes, *, raw_limit: int, data_limit: int) -> Payload:
    """Parse a payload; never raises, whatever the bytes are."""
    content = payload.removeprefix(BYTE_ORDER_MARK)
    if len(payload) > data_limit:
        problem = f"the message has {len(payload):,} bytes, more than the {data_limit:,} stored"
        return _malformed(payload, problem, raw_limit, fields=_read_known_fields(content))
    try:
        body = decode_json(content)
        is_suspect = content.count(b"[") + content.count(b"{") > DEEPEST
        if not (is_suspect and is_too_deep(body)):
            fields = body if isinstance(body, dict) else {}
            return Payload(data=msgspec.Raw(content), fields=fields)
        problem = f"the JSON is nested more than {DEEPEST} levels deep"
        return _malformed(payload, problem, raw_limit, fields=body)
    except RecursionError:
        problem = f"the JSON is nested more than {DEEPEST} levels deep"
    except (msgspec.MsgspecError, ValueError, OverflowError) as error:
        if b"NaN" in content or b"Infinity" in content:
            quoted = quote_special_numbers(content)
            if quoted != content and is_json(quoted):
                parsed = parse_payload(quoted, raw_limit=raw_limit, data_limit=2 * data_limit)
                parsed.problem = parsed.problem or SPECIAL_NUMBERS
                return parsed
        problem = describe_malformed(content, error)
    text = _decode_text(content)
    if text and not JSON_START.match(text):
        return Payload(data=_encode_text(text), text=text)
    malformed = _malformed(payload, problem, raw_limit, fields=_read_known_fields(content))
    if text:
        # Broken JSON can be searched as the text that it is.
        malformed.data = _encode_text(text[:raw_limit])
    return malformed


def is_json(content: bytes) -> bool:
    """Whether bytes are JSON."""
    try:
        decode_json(content)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        return False
    return True


def _decode_text(content: bytes) -> str:
    """Plain text in UTF-8; empty for anything else."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return ""
    return "" if BINARY.search(text) else text


def make_undecoded(payload: bytes, problem: str, raw_limit: int) -> Payload:
    """Return a payload whose bytes are stored as they came."""
    return _malformed(payload, problem, raw_limit, fields={})


def _malformed(payload: bytes, problem: str, raw_limit: int, *, fields: Any) -> Payload:
    if len(payload) > raw_limit:
        problem += f"; the first {raw_limit:,} of {len(payload):,} bytes are stored"
    raw = payload[:raw_limit]
    return Payload(fields=fields if isinstance(fields, dict) else {}, raw=raw, problem=problem)


def _encode_text(text: str) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(text))


def _read_known_fields(payload: bytes) -> dict[str, Any]:
    """The known fields of a message that is malformed elsewhere."""
    try:
        known = decode_known_fields(payload)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        return {}
    values = {name: getattr(known, name) for name in KnownFields.__struct_fields__}
    return {name: value for name, value in values.items() if value is not None}


def read_structured_data(payload: bytes) -> msgspec.Raw | None:
    """Return the bytes of `data` of a structured CloudEvent, unchanged."""
    data = decode_structured(payload.removeprefix(BYTE_ORDER_MARK)).data
    return None if isinstance(data, msgspec.UnsetType) else msgspec.Raw(bytes(data))


def describe_malformed(payload: bytes, error: Exception) -> str:
    """Return in words why a payload is not JSON."""
    if not payload:
        return "the message is empty"
    try:
        payload.decode()
    except UnicodeDecodeError as encoding:
        return f"the message is not UTF-8: {encoding.reason} at byte {encoding.start:,}"
    if b"\0" in payload:
        return f"the message contains a NUL byte, at byte {payload.index(0):,}"
    return f"the message is not JSON: {str(error)[:200]}"


def is_too_deep(value: Any) -> bool:
    """Whether a decoded value is nested deeper than `DEEPEST`; without recursion."""
    levels: list[Iterator[Any]] = [iter((value,))]
    while levels:
        for item in levels[-1]:
            if isinstance(item, dict):
                levels.append(iter(item.values()))
                break
            if isinstance(item, list):
                levels.append(iter(item))
                break
        else:
            levels.pop()
        if len(levels) > DEEPEST + 1:
            return True
    return False
