"""Ray's event export: what the aggregator agents of a cluster push (Ray 2.54 and later).

A request is a list of events in the JSON of Protocol Buffers, with names in camelCase, or as in the
schema with `..._PRESERVE_PROTO_FIELD_NAME`: `src/ray/protobuf/public/events_base_event.proto`.
"""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from almenara.hookspecs import IntakeKind, Push, PushRefusedError
from almenara.signals import Event, Severity, parse_time
from almenara_ray.redaction import redact, redact_tree

KIND: Final = "ray"
MAX_NAME: Final = 200
SEVERITIES: Final = {
    "TRACE": Severity.DEBUG,
    "DEBUG": Severity.DEBUG,
    "INFO": Severity.INFO,
    "WARNING": Severity.WARN,
    "ERROR": Severity.ERROR,
    "FATAL": Severity.FATAL,
}
FAILED_STATES: Final = frozenset(("FAILED", "DEAD", "INFEASIBLE"))
EXPECTED_DEATHS: Final = frozenset(
    (
        "EXPECTED_TERMINATION", "AUTOSCALER_DRAIN_IDLE", "INTENDED_SYSTEM_EXIT",
        "INTENDED_USER_EXIT",
    )
)  # fmt: skip
IDENTITIES: Final = {
    "task": ("task_id",),
    "actor_task": ("task_id",),
    "actor": ("actor_id",),
    "driver_job": ("job_id",),
    "submission_job": ("submission_id",),
    "node": ("node_id",),
    "placement_group": ("placement_group_id",),
    "worker": ("worker_id",),
    "platform": ("object_name",),
}
"""The field with the id of what an event is about."""
CORRELATIONS: Final = ("submission_id", "job_id", "creator_job_id")
NESTED: Final = ("_info", "_cause", "_func", "descriptor", "config")
"""The ends of the names of messages; other objects are maps, whose keys are not names."""
UPPER: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
TYPE: Final = re.compile(r"([A-Z_]{1,80}?)_EVENTS?")

decode_events = msgspec.json.Decoder(list[dict[str, Any]]).decode


def read_push(push: Push) -> Sequence[Event]:
    """Return an event for each of Ray's. Raises `PushRefusedError` and `msgspec.MsgspecError`."""
    events = []
    for index, raw in enumerate(decode_events(push.body)):
        try:
            events.append(read_event(raw, push.received))
        except ValueError as error:
            raise PushRefusedError(f"[{index}]: {error}") from None
    return events


def read_event(raw: Mapping[str, Any], received: int) -> Event:
    """Return an event of Ray's. Raises `ValueError` for one without an id or a type."""
    fields = {to_snake(name): value for name, value in raw.items()}
    identity, kind = read_id(fields.get("event_id")), fields.get("event_type")
    match = TYPE.fullmatch(kind) if isinstance(kind, str) else None
    if not identity:
        raise ValueError("eventId is required")
    if match is None:
        raise ValueError("eventType must be the name of a type, such as TASK_LIFECYCLE_EVENT")
    name = match[1].lower()
    body = find_body(fields, name)
    subject = name.removesuffix("_definition").removesuffix("_lifecycle").removesuffix("_profile")
    state = last_transition(body)
    moment, problem = read_moment(state.get("timestamp") or fields.get("timestamp"), received)
    data = {
        "session": to_text(fields.get("session_name")), "node_id": read_id(fields.get("node_id")),
        "source_type": fields.get("source_type"), "message": redact(to_text(fields.get("message"))),
        subject: body,
    }  # fmt: skip
    return Event(
        id=identity,
        source="ray",
        type=f"ray.export.{name}",
        subject=first_text(body, IDENTITIES.get(subject, ())),
        time=moment,
        severity=read_severity(fields, body, state),
        correlation=first_text(body, CORRELATIONS) or None,
        data={key: value for key, value in data.items() if value not in (None, "", {})},
        problem=problem,
    )


def to_snake(name: str) -> str:
    """A name of the JSON of Protocol Buffers as it is in the schema."""
    return UPPER.sub("_", name).lower()


def find_body(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What an event is about: the field that is named like its type, with readable ids."""
    for field in (f"{name}_event", f"{name}_events"):
        if isinstance(body := fields.get(field), dict):
            return normalize(body)
    return {}


def normalize(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a message with names as in the schema and ids in hexadecimal. The maps in it
    keep their keys, and what Ray sends empty is left out."""
    result: dict[str, Any] = {}
    for key, value in body.items():
        name = to_snake(key)
        if value in (None, "", [], {}) or name == "serialized_runtime_env":
            # The runtime environment has the environment variables, with secrets among them.
            continue
        if name.endswith("_id") and name != "submission_id":
            result[name] = read_id(value) or value
        elif name == "state_transitions" and isinstance(value, list):
            result[name] = [normalize(each) if isinstance(each, dict) else each for each in value]
        elif name.endswith(NESTED) and isinstance(value, dict):
            result[name] = normalize(value)
        else:
            result[name] = redact(value) if isinstance(value, str) else redact_tree(value)
    return result


def read_id(value: Any) -> str:
    """An id in hexadecimal, as Ray writes it elsewhere; it is pushed in base64."""
    if not isinstance(value, str) or not value or len(value) > MAX_NAME:
        return ""
    try:
        return base64.b64decode(value, validate=True).hex()
    except (binascii.Error, ValueError):
        return to_text(value)


def last_transition(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The last change of a state that an event reports."""
    transitions = body.get("state_transitions")
    last = transitions[-1] if isinstance(transitions, list) and transitions else None
    return last if isinstance(last, dict) else {}


def read_moment(value: Any, received: int) -> tuple[int, str | None]:
    """The time of an event in microseconds, and what is wrong with it."""
    try:
        return parse_time(value), None
    except (AttributeError, TypeError, ValueError, OverflowError):
        return received, "its timestamp is not a time; the time of arrival is used"


def read_severity(
    fields: Mapping[str, Any], body: Mapping[str, Any], state: Mapping[str, Any]
) -> Severity:
    """The severity that Ray reports, and at least ERROR for what failed."""
    reported = SEVERITIES.get(str(fields.get("severity")), Severity.INFO)
    if state.get("state") not in FAILED_STATES:
        return reported
    death = state.get("death_info")
    reason = death.get("reason") or death.get("exit_type") if isinstance(death, dict) else ""
    is_expected = str(reason) in EXPECTED_DEATHS or (
        state.get("state") == "DEAD" and not death and not state.get("death_cause")
    )
    return reported if is_expected else max(reported, Severity.ERROR)


def to_text(value: Any) -> str:
    """A text that a name can have; empty for anything else."""
    return value[:MAX_NAME] if isinstance(value, str) else ""


def first_text(body: Mapping[str, Any], names: Sequence[str]) -> str:
    """The first of these fields that is not empty."""
    return next((text for name in names if (text := to_text(body.get(name)))), "")


INTAKE: Final = IntakeKind(name=KIND, read=read_push)
