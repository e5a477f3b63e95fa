"""What a source publishes: an `Event`, a `Resource` or a `Sample`."""

from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Any, Final

import msgspec

from almenara.clock import now as now

UNKNOWN: Final = "unknown"
"""The status of a resource that its source cannot read at the moment."""
STALE_SINCE: Final = "stale_since"
"""The key of the state that holds since when state and samples are the last known."""
OBSERVED_BY: Final = "observed_by"
"""The key of the state that holds the origin of the events that a resource is derived from. While
the source of these does not run, the resource is unknown."""


class Severity(IntEnum):
    """How severe an event is: OpenTelemetry's short names, and its numbers as values.

    https://opentelemetry.io/docs/specs/otel/logs/data-model/#field-severitynumber
    """

    DEBUG = 5
    INFO = 9
    WARN = 13
    ERROR = 17
    FATAL = 21


def parse_severity(name: str) -> Severity:
    """Return the severity of a name in any case. Raises `ValueError` that lists the valid names."""
    try:
        return Severity[name.strip().upper()]
    except KeyError:
        valid = ", ".join(Severity.__members__)
        raise ValueError(f"{name!r} is not a severity; the severities are {valid}") from None


# Without `gc`: signals have no cycles, and there are hundreds of thousands.
class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Something that happened. Immutable; the envelope of CloudEvents 1.0.

    `source` and `id` together are the event's identity: the bus keeps one event of each, unless
    it has a `deduplication_key`.
    """

    id: str
    source: str
    """What emitted it, as in CloudEvents: a URI reference such as `nats/PLANNING_EVENTS`."""
    type: str
    time: int
    """Microseconds since the Unix epoch, UTC."""
    subject: str = ""
    data: Any = None
    """The payload: anything msgspec can write as JSON, or `msgspec.Raw` that holds JSON already."""
    severity: Severity = Severity.INFO
    origin: str = ""
    """Where Almenara read it, `<source name>/<part>`: `nats/PLANNING_EVENTS`. If empty, the bus
    sets the name of the source that published it."""
    correlation: str | None = None
    """The id that the events of one request, story or job share."""
    attributes: dict[str, str] = {}
    """CloudEvents extensions and transport headers, `traceparent` and `tracestate` among them."""
    raw: bytes | None = None
    """The original bytes, only where `data` could not be read from them."""
    problem: str | None = None
    """What was wrong with the original event, for the person who reads it."""
    deduplication_key: str = ""
    """What the bus deduplicates the event by instead of `source` and `id`: the place of a message
    in a log, if publishers may repeat an id for another message. It is not stored."""


class Resource(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The latest known state of one thing, keyed by `kind`, `namespace` and `name`."""

    kind: str
    name: str
    namespace: str = ""
    status: str = ""
    """One word for people: `ok`, `Running`, `stalled`. `unknown` where the source cannot read it:
    state and samples are then the last known, of the time `stale_since` in the state."""
    severity: Severity = Severity.INFO
    """How severe that status is: `INFO` for a healthy one."""
    state: dict[str, Any] = {}
    time: int = msgspec.field(default_factory=now)
    deleted: bool = False
    origin: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.kind, self.namespace, self.name


class Sample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One number of one resource at one time."""

    kind: str
    name: str
    metric: str
    value: float
    namespace: str = ""
    unit: str = ""
    """The unit by its UCUM code, `By`, `s`, `1/s`; empty for a count."""
    time: int = msgspec.field(default_factory=now)
    origin: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.kind, self.namespace, self.name


Signal = Event | Resource | Sample


def mark_unknown(
    resource: Resource,
    reason: str,
    since: int | None,
    *,
    status: str = UNKNOWN,
    severity: Severity = Severity.WARN,
) -> Resource:
    """Return a resource whose source cannot read it: its state is the last known one.

    `reason` says why, and `since` when it was last known, in microseconds; None where that is
    unknown too. `last_status` of the state holds its status before. It is at least as severe as
    before, and as `severity`.
    """
    state = {**resource.state, "reason": reason}
    if resource.status not in ("", status):
        state["last_status"] = resource.status
    if since is not None:
        state.setdefault(STALE_SINCE, since)
    return msgspec.structs.replace(
        resource, status=status, severity=max(resource.severity, severity), state=state
    )


EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)


def parse_time(text: str) -> int:
    """Return the microseconds since the epoch of an RFC 3339 or ISO 8601 timestamp; without an
    offset it is UTC.

    Raises `ValueError` for anything else, years outside 1 to 9999 included.
    """
    moment = datetime.fromisoformat(text.strip())
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - EPOCH) // MICROSECOND


def format_time(microseconds: int) -> str:
    """Return the RFC 3339 timestamp in UTC of microseconds since the epoch.

    Raises `OverflowError` for times outside the years 1 to 9999.
    """
    moment = EPOCH + timedelta(microseconds=microseconds)
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
