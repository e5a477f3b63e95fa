"""Alerts as they are on the bus, and a run of the state machine of notifications in memory."""

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from almenara.alerting.notifications.alert_events import AlertChange, read_change
from almenara.alerting.notifications.decisions import Traits
from almenara.alerting.notifications.groups import Groups
from almenara.alerting.notifications.records import Entry
from almenara.alerting.notifications.routes import Route, compile_routes
from almenara.config import RouteSettings
from almenara.signals import Resource, Severity
from almenara.units import SECOND

START = 1_767_225_600 * SECOND


def make_alert_resource(
    status: str,
    fingerprint: str = "a",
    *,
    rule: str = "disk_full",
    time: int = START,
    severity: Severity = Severity.ERROR,
    labels: Mapping[str, str] | None = None,
    origin: str = "kubernetes/nodes",
    **state: Any,
) -> Resource:
    """An alert as the evaluation of rules publishes it."""
    return Resource(
        kind="almenara.alert",
        namespace=rule,
        name=fingerprint,
        status=status,
        # What needs no one's attention is published with a lower severity.
        severity=severity if status in ("firing", "flapping") else Severity.INFO,
        time=time,
        origin=origin,
        state={
            "rule": rule,
            "severity": severity.name,
            "labels": {"node": fingerprint, **(labels or {})},
            "annotations": {"summary": f"The disk of {fingerprint} is full"},
            "value": 95.0,
            "threshold": 90.0,
            "since": time,
            "started": time,
            "notify": [],
            **state,
        },
    )


class NotificationRun:
    """Runs the state machine second by second, with receivers that accept everything at once,
    except while they are down or when they refuse."""

    def __init__(
        self,
        route: RouteSettings,
        receivers: Collection[Traits],
        *,
        restart_every: int = 0,
    ) -> None:
        self.receivers = {traits.name: traits for traits in receivers}
        self.root: Route = compile_routes(route, list(self.receivers))
        self.rows: dict[str, bytes] = {}
        self.time, self.sequence = 0, 0
        self.sent: list[tuple[int, str, Entry]] = []
        self.down: set[str] = set()
        self.refusing: set[str] = set()
        self.hidden: set[tuple[str, str]] = set()
        self.restart_every = restart_every
        self.groups = self._create()

    def _create(self) -> Groups:
        return Groups(self.root, self.receivers, self._is_visible)

    def _is_visible(self, receiver: str, change: AlertChange) -> bool:
        return (receiver, change.alert.fingerprint) not in self.hidden

    @property
    def now(self) -> int:
        return START + self.time * SECOND

    def publish(self, status: str, fingerprint: str = "a", **fields: Any) -> None:
        """An alert changes now."""
        self.sequence += 1
        alert = make_alert_resource(status, fingerprint, time=self.now, **fields)
        change = read_change(alert, self.sequence)
        assert change is not None
        self.groups.apply(change, self.now)

    def advance(self, seconds: int) -> None:
        """Let time pass, and deliver what is due."""
        end = self.time + seconds
        self._turn()
        while self.time < end:
            due = self.groups.next_flush()
            step = end if due is None else min(end, max((due - START) // SECOND, self.time + 1))
            self.time = min(step, self.time + self.restart_every) if self.restart_every else step
            self._turn()

    def _turn(self) -> None:
        self.groups.flush(self.now)
        self._commit()
        for name, waiting in self.groups.outbox.items():
            for group, entry in list(waiting.items()):
                if name in self.down:
                    continue
                if name in self.refusing:
                    self.groups.refuse(name, group, entry, self.now)
                else:
                    self.sent.append((self.time, name, entry))
                    self.groups.confirm(name, group, entry, f"ref-{entry.episode}")
        self._commit()
        if self.restart_every:
            self.restart()

    def restart(self) -> None:
        """Continue with what is durable, as after a crash."""
        failing = dict(self.groups.failing)
        self.groups = self._create()
        self.groups.load(self.rows, self.now)
        self.groups.failing.update(failing)
        self._commit()

    def _commit(self) -> None:
        for key, value in self.groups.take_changes().items():
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value

    @property
    def log(self) -> list[str]:
        """What was sent: `30 ops firing a:firing b:resolved`; `~` marks a quiet notification and
        `=` a repeated one."""
        return [
            f"{time} {name} {_mark(entry)}{entry.status} "
            + " ".join(
                f"{key.rpartition('/')[2]}:{status}"
                for key, status in sorted(entry.statuses.items())
            )
            for time, name, entry in self.sent
        ]


def _mark(entry: Entry) -> str:
    return "~" if entry.is_quiet else "=" if entry.is_repeat else ""


def route(**fields: Any) -> RouteSettings:
    """The settings of a routing tree."""
    return msgspec.convert({"receivers": ["ops"], **fields}, RouteSettings)
