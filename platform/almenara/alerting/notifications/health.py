"""The health of receivers: as resources and events on the bus, and when a fallback takes over."""

from collections.abc import Mapping
from typing import Any, Final

from almenara.alerting.notifications.groups import Changes
from almenara.alerting.notifications.receivers import Receiver
from almenara.alerting.notifications.records import ReceiverRow, decode_row, encode_row
from almenara.alerting.notifications.worker import Outcome
from almenara.signals import Event, Resource, Severity, Signal, format_time
from almenara.units import SECOND

KIND: Final = "almenara.receiver"
SOURCE: Final = "almenara/notifications"
LISTED_ALERTS: Final = 20
STATUSES: Final = {
    "ready": Severity.INFO,
    "idle": Severity.DEBUG,
    "failing": Severity.ERROR,
}


class ReceiverHealth:
    """What is known about the deliveries of one receiver."""

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self.row = ReceiverRow(name=receiver.name)

    @property
    def key(self) -> str:
        return f"receiver/{self.receiver.name}"

    @property
    def status(self) -> str:
        """`failing`; `ready` after a delivery; `idle` before the first."""
        if self.row.failing_since is not None:
            return "failing"
        return "ready" if self.row.succeeded_at is not None else "idle"

    def load(self, rows: Mapping[str, bytes]) -> None:
        """Restore what an earlier run has stored."""
        if (row := rows.get(self.key)) is not None:
            self.row = decode_row(row, ReceiverRow)

    def note(self, outcome: Outcome, now: int) -> list[Signal]:
        """Note the result of an attempt; return the events about it."""
        row = self.row
        if not outcome.error:
            row.succeeded_at, row.delivered = now, row.delivered + 1
            return [*self._recover(now), self._event("delivered", outcome, now, Severity.INFO)]
        row.error = outcome.error
        if outcome.is_refused:
            # The receiver works: it is the notification that it does not accept.
            row.refused += 1
            return [*self._recover(now), self._event("refused", outcome, now, Severity.ERROR)]
        row.failed += 1
        if row.failing_since is not None:
            return []
        row.failing_since = now
        return [self._status_event("failing", now, Severity.ERROR)]

    def _recover(self, now: int) -> list[Signal]:
        if self.row.failing_since is None:
            return []
        event = self._status_event("recovered", now, Severity.INFO)
        self.row.failing_since = None
        return [event]

    def fallback_at(self, after: float) -> int | None:
        """Return when the fallback takes over; None while the receiver works."""
        if self.row.failing_since is None:
            return None
        return self.row.failing_since + int(after * SECOND)

    def describe_failure(self) -> str:
        """Return a note for those that are notified in place of this receiver."""
        since = format_time(self.row.failing_since or 0)[:16].replace("T", " ")
        return f"Receiver {self.row.name} has been failing since {since} UTC: {self.row.error}"

    def resource(self, waiting: int, now: int) -> Resource:
        """Return the receiver as a resource; `waiting` is the number of groups in its outbox."""
        row, status = self.row, self.status
        return Resource(
            kind=KIND,
            name=row.name,
            status=status,
            severity=STATUSES[status],
            time=now,
            state={
                "kind": self.receiver.kind.name,
                "title": self.receiver.kind.title or self.receiver.kind.name,
                "error": row.error if row.failing_since is not None or row.refused else "",
                "failing_since": row.failing_since,
                "succeeded_at": row.succeeded_at,
                "delivered": row.delivered,
                "failed": row.failed,
                "refused": row.refused,
                "waiting": waiting,
                "fallback": self.receiver.fallback,
            },
        )

    def save(self) -> Changes:
        """Return the row of the store."""
        return {self.key: encode_row(self.row)}

    def _event(self, status: str, outcome: Outcome, now: int, severity: Severity) -> Event:
        notification = outcome.notification
        return Event(
            id=f"{notification.key}/{status}",
            source=SOURCE,
            type=f"almenara.notification.{status}",
            subject=outcome.receiver,
            time=now,
            severity=severity,
            data={
                "receiver": outcome.receiver,
                "kind": self.receiver.kind.name,
                "group": notification.group,
                "episode": notification.episode,
                "version": notification.version,
                "status": notification.status,
                "title": notification.title,
                "open": notification.open_count,
                "resolved": notification.resolved_count,
                "alerts": [
                    f"{alert.rule}/{alert.fingerprint}"
                    for alert in notification.alerts[:LISTED_ALERTS]
                ],
                **({"error": outcome.error} if outcome.error else {}),
            },
        )

    def _status_event(self, status: str, now: int, severity: Severity) -> Event:
        data: dict[str, Any] = {"receiver": self.row.name, "kind": self.receiver.kind.name}
        if status == "failing":
            data["error"] = self.row.error
        else:
            data["failing_since"] = self.row.failing_since
        return Event(
            id=f"receiver/{self.row.name}/{status}/{self.row.failing_since}",
            source=SOURCE,
            type=f"{KIND}.{status}",
            subject=self.row.name,
            time=now,
            severity=severity,
            data=data,
        )
