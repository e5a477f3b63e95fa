"""One rule over the past: when its alerts would have fired."""

import sqlite3
from collections.abc import Iterator
from typing import Final

import msgspec

from almenara.alerting import ALERT
from almenara.alerting.commands import make_started
from almenara.alerting.evaluator import NAME, Evaluator
from almenara.alerting.model import ACTIVE
from almenara.alerting.rules import RuleSet
from almenara.bus import Record
from almenara.bus.codec import RowDecoder
from almenara.bus.replay import read_after
from almenara.processors.fold import Fold
from almenara.signals import Event, Signal

BATCH: Final = 2_000
COLUMN: Final = f"{ALERT}."


class Episode(msgspec.Struct, kw_only=True):
    """One time that an alert was active. Times are microseconds since the epoch."""

    alert: str
    summary: str
    fired: int
    resolved: int | None = None
    """None where it was still active at the end."""
    status: str
    """Its last status: `resolved`, or what it still was at the end."""
    has_flapped: bool = False


class Replay(msgspec.Struct):
    """What a rule would have done."""

    episodes: list[Episode]
    records: int
    """Records of the log that were read."""
    failures: list[str]
    pending: int = 0
    """Alerts that were pending and did not fire."""


def replay(rules: RuleSet, records: Iterator[Record], since: int, until: int) -> Replay:
    """Return what rules would have done with records, in the order of the log.

    Time passes with the times of the records, so that what one of them holds for an hour and what
    the log has of that hour agree, however long ago it was.
    """
    evaluator = Evaluator(rules)
    fold = Fold(evaluator, NAME, {})
    result = Replay(episodes=[], records=0, failures=[])
    started = msgspec.structs.replace(make_started(), time=since)
    derived = fold.accept(Record(0, started))
    moment = since
    for record in records:
        result.records += 1
        if since <= record.signal.time <= until and record.signal.time > moment:
            moment = record.signal.time
            derived += fold.advance(moment, record.sequence)
        derived += fold.accept(record)
        fold.state.take_changes()
        _collect(result, derived)
        derived = []
    _collect(result, derived + fold.advance(until, 0))
    result.failures += fold.take_failures()
    result.failures += [
        f"rule {name}: {health.error}" for name, health in evaluator.health.items() if health.error
    ]
    return result


def _collect(result: Replay, derived: list[Signal]) -> None:
    for signal in derived:
        if not isinstance(signal, Event) or not signal.type.startswith(COLUMN):
            continue
        status = signal.type.removeprefix(COLUMN)
        active = next(
            (each for each in reversed(result.episodes)
             if each.alert == signal.subject and each.resolved is None),
            None,
        )  # fmt: skip
        if status == "pending":
            result.pending += 1
            continue
        if active is None:
            if status not in ACTIVE:
                continue
            active = Episode(
                alert=signal.subject,
                summary=signal.data["annotations"]["summary"],
                fired=signal.data["started"],
                status=status,
            )
            result.episodes.append(active)
        if status in ACTIVE or status == "resolved":
            active.status = status
            active.has_flapped = active.has_flapped or status == "flapping"
        if status == "resolved":
            active.resolved = signal.data["ended"]


def read_log(
    connection: sqlite3.Connection, since: int, decoder: RowDecoder | None = None
) -> Iterator[Record]:
    """Yield the records of a log from about a time on, in order."""
    row = connection.execute("SELECT max(sequence) FROM clock WHERE time <= ?", (since,)).fetchone()
    cursor = row[0] or 0
    decoder = decoder or RowDecoder()
    while True:
        records, end = read_after(connection, cursor, BATCH, decoder)
        if end == cursor:
            return
        cursor = end
        yield from records
