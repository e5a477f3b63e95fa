"""The durable state of notifications, as rows of the store.

All times are microseconds since the epoch. Rows are written as MessagePack; new fields have
defaults, so that rows of an earlier version stay readable.
"""

from typing import Any, Literal

import msgspec

from almenara.hookspecs import Alert
from almenara.notification_specs import AlertStatus
from almenara.signals import Severity

AlertKey = str
"""`<rule>/<fingerprint>`."""
Statuses = dict[AlertKey, AlertStatus]


class GroupRow(msgspec.Struct, kw_only=True):
    """A group of alerts of one route."""

    key: str
    route: str
    """The key of its route."""
    labels: dict[str, str]
    flush_at: int
    """When it is compared with what its receivers know."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A notification in the outbox: which alerts it reports, and as what."""

    version: int
    episode: str
    created: int
    waiting_since: int
    """When the oldest notification was made that it replaces, before any was delivered."""
    statuses: Statuses
    """The status of each alert that the receiver knows once it is delivered."""
    status: Literal["firing", "resolved"]
    severity: Severity
    alerts: tuple[Alert, ...]
    open_count: int
    resolved_count: int
    common_labels: dict[str, str] = {}
    is_quiet: bool = False
    is_repeat: bool = False
    note: str = ""
    """Why this receiver gets it in place of another one."""

    @property
    def omitted(self) -> int:
        return self.open_count + self.resolved_count - len(self.alerts)


class TargetRow(msgspec.Struct, kw_only=True):
    """What one receiver knows about one group, and what is sent to it next."""

    group: str
    receiver: str
    version: int = 0
    """The version of the newest notification."""
    confirmed: Statuses = {}
    """The open alerts that it knows, by the newest notification that it has accepted."""
    notified_at: int = 0
    """When the newest notification was made that was not quiet."""
    episode: str = ""
    reference: str = ""
    """What its notifier returned in this episode."""
    pending: Entry | None = None
    """The notification that it has not accepted yet."""
    has_refused: bool = False
    """Whether it has refused a notification of this episode, so that its fallback is used."""

    @property
    def known(self) -> Statuses:
        """The alerts that it knows, or will know once it accepts what is pending."""
        return self.confirmed if self.pending is None else self.pending.statuses

    def may_know(self, key: AlertKey) -> bool:
        """Whether it knows an alert, or may because a delivery was perhaps accepted."""
        return key in self.confirmed or (
            self.pending is not None and self.pending.statuses.get(key, "resolved") != "resolved"
        )

    def involves(self, key: AlertKey) -> bool:
        """Whether it knows an alert, or what is pending reports it."""
        return key in self.confirmed or (self.pending is not None and key in self.pending.statuses)


class ReceiverRow(msgspec.Struct, kw_only=True):
    """The health of a receiver."""

    name: str
    failing_since: int | None = None
    error: str = ""
    """Why the newest delivery failed."""
    succeeded_at: int | None = None
    delivered: int = 0
    failed: int = 0
    refused: int = 0


encode_row = msgspec.msgpack.Encoder().encode


def decode_row(row: bytes, kind: type[Any]) -> Any:
    """Return a row of the store. Raises `msgspec.MsgspecError`."""
    return msgspec.msgpack.decode(row, type=kind)
