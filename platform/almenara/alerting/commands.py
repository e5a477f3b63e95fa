"""What people do with alerts, as events on the log that the evaluator reads."""

import re
import uuid
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from almenara.alerting import COMMAND, ORIGIN, SILENCE
from almenara.alerting.matchers import Matcher, parse_matcher
from almenara.sdk.calendar import Calendar
from almenara.signals import Event, Resource, now

STARTED: Final = f"{COMMAND}.started"
ACKNOWLEDGE: Final = f"{COMMAND}.acknowledge"
UNACKNOWLEDGE: Final = f"{COMMAND}.unacknowledge"
ASSIGN: Final = f"{COMMAND}.assign"
SILENCE_CREATED: Final = f"{COMMAND}.silence"
SILENCE_ENDED: Final = f"{COMMAND}.unsilence"
PLAIN_EXPRESSION: Final = re.compile(r"(?:[\w /:@|-]|\\.|\.\*?){0,200}")
MAX_WILDCARDS: Final = 4
MAX_COMMENT: Final = 1_000
MAX_NAME: Final = 200


class Silence(msgspec.Struct, kw_only=True):
    """A silence: alerts that match every matcher do not notify while it is active."""

    id: str
    matchers: list[str]
    author: str
    comment: str
    starts: int
    """Microseconds since the epoch."""
    ends: int
    calendar: Calendar | None = None
    """The times of the week at which it is active between its start and its end; None for all."""
    reached: int = 0
    """When it last became active or inactive. Signals that come late do not undo that."""

    def is_active(self, time: int) -> bool:
        """Whether it is active at a time."""
        is_within = self.starts <= time < self.ends
        return is_within and (self.calendar is None or self.calendar.is_active(time))

    def next_change(self, time: int) -> int:
        """Return when it becomes active or inactive after a time; its end at the latest."""
        if time < self.starts:
            return self.starts
        change = None if self.calendar is None else self.calendar.next_change(time)
        return self.ends if change is None else min(change, self.ends)

    def status(self, time: int) -> str:
        """`pending`, `active` or `expired`."""
        return "expired" if time >= self.ends else "active" if self.is_active(time) else "pending"

    def resource(self, time: int) -> Resource:
        """The resource of the silence."""
        return Resource(
            kind=SILENCE, name=self.id, status=self.status(time), time=time, origin=ORIGIN,
            state={
                "matchers": self.matchers, "author": self.author, "comment": self.comment,
                "starts": self.starts, "ends": self.ends,
                **({} if self.calendar is None else {"calendar": str(self.calendar)}),
            },
        )  # fmt: skip


class Acknowledgement(msgspec.Struct, kw_only=True):
    """Data of the commands `acknowledge` and `unacknowledge`."""

    alert: str
    """`<rule>/<fingerprint>`."""
    by: str
    comment: str = ""


class Assignment(msgspec.Struct, kw_only=True):
    """Data of the command `assign`."""

    alert: str
    """`<rule>/<fingerprint>`."""
    to: str
    """Who takes care of it; empty for no one."""
    by: str


class SilenceEnd(msgspec.Struct, kw_only=True):
    """Data of the command `unsilence`."""

    id: str
    by: str


def make_started() -> Event:
    """Return the event that starts the evaluation of the configured rules."""
    return _make(STARTED, {})


def make_acknowledge(alert: str, by: str, comment: str = "") -> Event:
    """Return the command to acknowledge an alert until it resolves."""
    data = Acknowledgement(alert=alert, by=by[:MAX_NAME], comment=comment[:MAX_COMMENT])
    return _make(ACKNOWLEDGE, data, subject=alert)


def make_unacknowledge(alert: str, by: str) -> Event:
    """Return the command to take an acknowledgement back."""
    return _make(UNACKNOWLEDGE, Acknowledgement(alert=alert, by=by[:MAX_NAME]), subject=alert)


def make_assign(alert: str, to: str, by: str) -> Event:
    """Return the command to assign an alert to a person, or with an empty name to no one."""
    data = Assignment(alert=alert, to=" ".join(to.split())[:MAX_NAME], by=by[:MAX_NAME])
    return _make(ASSIGN, data, subject=alert)


def make_silence(
    matchers: Sequence[str],
    author: str,
    comment: str,
    ends: int,
    starts: int | None = None,
    calendar: Calendar | None = None,
) -> Event:
    """Return the command to create a silence. Raises `ValueError` that says what is wrong."""
    parsed = [parse_plain_matcher(text) for text in matchers]
    if not parsed:
        raise ValueError("a silence needs at least one matcher, such as rule=node-not-ready")
    if not comment.strip():
        raise ValueError("a silence needs a comment that says why")
    moment = now()
    starts = moment if starts is None else starts
    if ends <= max(starts, moment):
        raise ValueError("a silence must end after it starts, and in the future")
    if calendar is not None and not _opens_before(calendar, max(starts, moment), ends):
        raise ValueError(
            f"the silence ends before its window {calendar} opens, so it would never be active;"
            " give it a later end"
        )
    silence = Silence(
        id=uuid.uuid4().hex[:12], matchers=[str(matcher) for matcher in parsed],
        author=author[:MAX_NAME], comment=comment.strip()[:MAX_COMMENT], starts=starts, ends=ends,
        calendar=calendar,
    )  # fmt: skip
    return _make(SILENCE_CREATED, silence, subject=silence.id)


def _opens_before(calendar: Calendar, time: int, ends: int) -> bool:
    """Whether a window is open at a time, or opens between it and an end."""
    if calendar.is_active(time):
        return True
    opens = calendar.next_change(time)
    return opens is not None and opens < ends


def make_unsilence(identity: str, by: str) -> Event:
    """Return the command to end a silence."""
    return _make(SILENCE_ENDED, SilenceEnd(id=identity, by=by[:MAX_NAME]), subject=identity)


def parse_plain_matcher(text: str) -> Matcher:
    """Return a matcher of a silence, whose expression is simple. Raises `ValueError`."""
    matcher = parse_matcher(text)
    if matcher.operator in ("=~", "!~") and (
        not PLAIN_EXPRESSION.fullmatch(matcher.value) or matcher.value.count(".*") > MAX_WILDCARDS
    ):
        raise ValueError(
            f"{matcher.value[:80]!r} is not allowed in a silence: use letters, `.*` at most"
            f" {MAX_WILDCARDS} times, and `|`"
        )
    return matcher


def _make(kind: str, data: Any, subject: str = "") -> Event:
    return Event(
        id=uuid.uuid4().hex, source=ORIGIN, type=kind, time=now(), subject=subject,
        data=msgspec.to_builtins(data), origin=ORIGIN,
    )  # fmt: skip
