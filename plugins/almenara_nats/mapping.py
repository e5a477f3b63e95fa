"""Reads a NATS message: whatever its bytes are, they become an event.

The fleet publishes three generations of payloads side by side: bare fields, an envelope with an
`idempotency_key`, and CloudEvents (structured, or in `ce-*` headers).
"""

import hashlib
import re
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from almenara.cloudevents import CloudEventError, from_binary, from_structured, is_structured
from almenara.signals import Event, Severity, parse_severity, parse_time

LONGEST_NAME: Final = 512
"""Characters of an id, type, subject or correlation; longer ones are cut and end in a hash."""
MOST_ATTRIBUTES: Final = 64
LONGEST_ATTRIBUTE: Final = 1024
DEEPEST: Final = 200
"""Levels of nesting that every reader of the history can take."""
DAY: Final = 86_400_000_000
EARLIEST: Final = int(datetime(2000, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000

CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
BAD: Final = re.compile(r"fail|error|fatal|dead[._ -]?letter|exception|crash")
WORRYING: Final = re.compile(r"reject|time[_-]?d?[_-]?out|warn|retry")
LEVELS: Final = {
    "TRACE": Severity.DEBUG,
    "WARNING": Severity.WARN,
    "NOTICE": Severity.INFO,
    "INFORMATION": Severity.INFO,
    "CRITICAL": Severity.FATAL,
    "EMERGENCY": Severity.FATAL,
    "ALERT": Severity.FATAL,
    "PANIC": Severity.FATAL,
    "ERR": Severity.ERROR,
}
CORE: Final = "core"


class Fields(msgspec.Struct):
    """What is read of a message too long to be decoded whole."""

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


decode_whole = msgspec.json.Decoder().decode
decode_fields = msgspec.json.Decoder(Fields).decode


def parse_headers(block: bytes) -> dict[str, str]:
    """The headers in a NATS header block, names in lower case; repeated ones are joined."""
    found: dict[str, str] = {}
    for line in block.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if not colon:
            continue
        key = name.strip().decode("utf-8", "replace").lower()
        text = value.strip().decode("utf-8", "replace")
        if key:
            found[key] = f"{found[key]}, {text}" if key in found else text
    return found


def read_message(
    subject: str,
    headers: Mapping[str, str],
    payload: bytes,
    *,
    stream: str = CORE,
    sequence: int = 0,
    received: int,
    raw_limit: int = 64 * 1024,
    data_limit: int = 1024**2,
) -> Event:
    """The event of one message; never raises, whatever the bytes are.

    `headers` have their names in lower case. `received` is JetStream's timestamp of the message, or
    the time of arrival of a core message (`sequence` 0), in microseconds.
    """
    problems: list[str] = []
    body: Any = None
    data: Any = None
    raw: bytes | None = None
    wrong = ""
    try:
        if len(payload) <= data_limit:
            body = decode_whole(payload)
            if payload.count(b"[") + payload.count(b"{") > DEEPEST and too_deep(body):
                wrong = f"the JSON is nested more than {DEEPEST} levels deep"
            else:
                data = msgspec.Raw(payload)
        else:
            wrong = f"the message has {len(payload):,} bytes, more than the {data_limit:,} kept"
            body = _fields(payload)
    except RecursionError:
        wrong = f"the JSON is nested more than {DEEPEST} levels deep"
    except UnicodeDecodeError as error:
        wrong = f"the message is not UTF-8: {error.reason} at byte {error.start:,}"
    except (msgspec.MsgspecError, ValueError, OverflowError) as error:
        wrong = wrong or _not_json(payload, error)
    if wrong:
        body = body if isinstance(body, dict) else None
        if body is None and len(payload) <= data_limit:
            body = _salvaged(payload)
        raw = payload[:raw_limit]
        kept = f"; the first {raw_limit:,} of {len(payload):,} bytes are kept"
        problems.append(wrong + (kept if len(payload) > raw_limit else ""))
        data = None

    origin = f"nats/{stream}"
    fields: dict[str, Any] = body if isinstance(body, dict) else {}
    event: Event | None = None
    if "ce-specversion" in headers or (fields and is_structured(fields)):
        event = _cloudevent(subject, headers, fields, payload, data, raw, received, problems)
    if event is not None:
        identity, source, kind = event.id, event.source, event.type
        named, moment = event.subject or subject, event.time
        correlation = event.correlation or _correlation(fields)
        attributes = dict(event.attributes)
        data, raw = event.data, event.raw
        said = headers.get("ce-severity") or fields.get("severity")
        if event.subject and event.subject != subject:
            attributes["nats_subject"] = subject
        for name, value in headers.items():
            if not name.startswith("ce-"):
                attributes.setdefault(name, value)
        if not _plausible(moment, received):
            problems.append("its time is out of any bounds; the time of arrival stands in")
            moment = received
    else:
        source, named = origin, subject
        identity = _text(fields.get("idempotency_key")) or headers.get("nats-msg-id", "")
        if not identity:
            # The moment makes a sequence unique, also where a stream was made anew.
            identity = f"{stream}@{received}:{sequence}" if sequence else str(uuid.uuid4())
        kind = _text(fields.get("event_type")) or _text(fields.get("type")) or subject
        moment = _moment(fields.get("timestamp"), received, problems)
        correlation = _correlation(fields)
        attributes = dict(headers) if headers else {}
        for name in ("traceparent", "tracestate"):
            if name not in attributes and (value := _text(fields.get(name))):
                attributes[name] = value
        said = fields.get("severity")

    severity = _severity(said, fields, kind, subject, problems)
    if attributes:
        attributes = _bounded(attributes, problems)
    return Event(
        id=_name(identity, "id", problems),
        source=_name(source, "source", problems),
        type=_name(kind, "type", problems) or "unknown",
        subject=_name(named, "subject", problems),
        time=moment,
        data=data,
        severity=severity,
        origin=_name(origin, "origin", problems),
        correlation=_name(correlation, "correlation", problems) if correlation else None,
        attributes=attributes,
        raw=raw,
        problem=CONTROL.sub("\ufffd", "; ".join(problems)) if problems else None,
    )


def _cloudevent(
    subject: str,
    headers: Mapping[str, str],
    fields: dict[str, Any],
    payload: bytes,
    data: Any,
    raw: bytes | None,
    received: int,
    problems: list[str],
) -> Event | None:
    """The CloudEvent in a message, or None with a problem noted where it only claims to be one."""
    try:
        if "ce-specversion" in headers:
            content = headers.get("content-type", "").partition(";")[0].strip().lower()
            if raw is not None and content.startswith("text/") and len(payload) == len(raw):
                # Text is what its producer said it is, and no fault.
                data, raw = payload.decode(), None
                problems.clear()
            event = from_binary(headers, data, received=received)
        else:
            event = from_structured(fields, received=received)
            if raw is None and event.raw is None:
                data = msgspec.Raw(msgspec.json.encode(event.data))
            elif raw is None:
                data, raw = event.data, event.raw
        if event.problem:
            problems.append(event.problem)
        return msgspec.structs.replace(event, data=data, raw=raw)
    except (CloudEventError, UnicodeError) as error:
        problems.append(str(error))
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
        problems.append(f"the CloudEvent cannot be read: {error}")
    return None


def _fields(payload: bytes) -> dict[str, Any]:
    found = decode_fields(payload)
    return {
        name: value
        for name in Fields.__struct_fields__
        if (value := getattr(found, name)) is not None
    }


def _salvaged(payload: bytes) -> dict[str, Any] | None:
    """The known fields of a message that is wrong elsewhere."""
    try:
        return _fields(payload)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        return None


def _not_json(payload: bytes, error: Exception) -> str:
    if not payload:
        return "the message is empty"
    try:
        payload.decode()
    except UnicodeDecodeError as encoding:
        return f"the message is not UTF-8: {encoding.reason} at byte {encoding.start:,}"
    if b"\0" in payload:
        return f"the message holds a NUL byte, at byte {payload.index(0):,}"
    return f"the message is not JSON: {str(error)[:200]}"


def too_deep(value: Any) -> bool:
    """Whether a decoded value is nested deeper than `DEEPEST`, told without recursion."""
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


def _text(value: Any) -> str:
    """A value that can name something, as text; empty for any other."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 64:
        return str(value)
    return ""


def _correlation(fields: dict[str, Any]) -> str:
    for name in ("correlation_id", "correlationid", "story_id"):
        if found := _text(fields.get(name)):
            return found
    for name in ("payload", "constraints", "data"):
        inner = fields.get(name)
        if isinstance(inner, dict) and (found := _text(inner.get("story_id"))):
            return found
    return _text(fields.get("task_id"))


def _moment(stamp: Any, received: int, problems: list[str]) -> int:
    if stamp is None:
        return received
    moment: int | None = None
    if isinstance(stamp, str):
        try:
            moment = parse_time(stamp)
        except (ValueError, OverflowError):
            moment = None
    elif isinstance(stamp, int | float) and not isinstance(stamp, bool):
        size = abs(stamp)
        for bound, scale in ((1e11, 1e6), (1e14, 1e3), (1e17, 1.0), (1e20, 1e-3)):
            if size < bound:
                moment = int(stamp * scale)
                break
    if moment is None:
        shown = msgspec.json.encode(stamp).decode()[:80]
        problems.append(f"timestamp {shown} is no time; the time of arrival stands in")
        return received
    if not _plausible(moment, received):
        shown = msgspec.json.encode(stamp).decode()[:80]
        problems.append(f"timestamp {shown} is out of any bounds; the time of arrival stands in")
        return received
    return moment


def _plausible(moment: int, received: int) -> bool:
    return EARLIEST <= moment <= received + DAY


def _severity(
    said: Any, fields: dict[str, Any], kind: str, subject: str, problems: list[str]
) -> Severity:
    """What the message says of itself, else what its words let one think."""
    for name in (said, fields.get("level")):
        if not isinstance(name, str):
            continue
        level = LEVELS.get(name.strip().upper())
        if level is not None:
            return level
        try:
            return parse_severity(name)
        except ValueError as error:
            text = str(error)[:200]
            # A level may mean something else than severity, as in a game.
            if name is said and text not in problems:
                problems.append(text)
    if kind == "vllm_token":
        return Severity.DEBUG
    inner = fields.get("payload") or fields.get("data")
    status = fields.get("status")
    if status is None and isinstance(inner, dict):
        status = inner.get("status")
    words = f"{kind} {subject} {status if isinstance(status, str) else ''}".lower()
    if BAD.search(words) or fields.get("error") or fields.get("error_type"):
        return Severity.ERROR
    if WORRYING.search(words):
        return Severity.WARN
    return Severity.INFO


def _bounded(attributes: dict[str, str], problems: list[str]) -> dict[str, str]:
    if len(attributes) > MOST_ATTRIBUTES:
        problems.append(
            f"it has {len(attributes)} headers and attributes; {MOST_ATTRIBUTES} are kept"
        )
        # The trace and the subject are what people look for, so they are kept first.
        first = [
            name for name in ("traceparent", "tracestate", "nats_subject") if name in attributes
        ]
        rest = [name for name in attributes if name not in first]
        attributes = {name: attributes[name] for name in (first + rest)[:MOST_ATTRIBUTES]}
    kept = {}
    for name, value in attributes.items():
        key = CONTROL.sub("\ufffd", name[:128])
        if len(value) > LONGEST_ATTRIBUTE:
            problems.append(f"{key} has {len(value):,} characters; {LONGEST_ATTRIBUTE} are kept")
            value = value[:LONGEST_ATTRIBUTE]
        kept[key] = CONTROL.sub("\ufffd", value)
    return kept


def _name(text: str, what: str, problems: list[str]) -> str:
    """The text as a name: of bounded length and without control characters."""
    if len(text) <= LONGEST_NAME and text.isprintable():
        return text
    if len(text) > LONGEST_NAME:
        problems.append(f"its {what} has {len(text):,} characters and is cut")
        digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest()
        text = f"{text[: LONGEST_NAME - 17]}~{digest}"
    clean = CONTROL.sub("\ufffd", text)
    if clean != text:
        digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest()
        if what == "id":
            # Two ids that differ in control characters alone stay two.
            clean = f"{clean[: LONGEST_NAME - 17]}~{digest}"
        problems.append(f"its {what} holds control characters, shown as \ufffd")
    return clean
