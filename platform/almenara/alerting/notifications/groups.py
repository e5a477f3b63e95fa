"""Groups of alerts: a state machine that decides who is to be notified of what, and when.

Pure: it has no clock, no task and no file. Changes of alerts go in with `apply`, the passing of
time with `flush`, results of deliveries with `confirm` and `refuse`. What waits to be delivered is
in `outbox`, and each change of durable state is in `take_changes`. The times are those of
Alertmanager: a new group waits for `group_wait`, and is then compared with what its receivers know
every `group_interval`.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import msgspec

from almenara.alerting.notifications.alert_events import AlertChange
from almenara.alerting.notifications.decisions import Traits, decide
from almenara.alerting.notifications.records import (
    AlertKey,
    Entry,
    GroupRow,
    TargetRow,
    decode_row,
    encode_row,
)
from almenara.alerting.notifications.routes import (
    DIRECT,
    Route,
    group_key,
    routes_of,
    routing_labels,
)
from almenara.hookspecs import Alert

ADDED: Final = frozenset(("firing", "flapping", "acknowledged"))
"""Statuses with which an alert enters a group that does not have it."""

Changes = dict[str, bytes | None]
"""Rows of the store by their keys; None for one that is removed."""
IsVisible = Callable[[str, AlertChange], bool]
"""Whether a receiver may see an alert."""


class Group:
    """A group with its route, its alerts and what each receiver knows."""

    def __init__(self, row: GroupRow, route: Route) -> None:
        self.row, self.route = row, route
        self.alerts: dict[AlertKey, AlertChange] = {}
        self.targets: dict[str, TargetRow] = {}


class Groups:
    """All groups, and the outbox."""

    def __init__(self, root: Route, receivers: Mapping[str, Traits], is_visible: IsVisible) -> None:
        self._root, self._receivers, self._is_visible = root, receivers, is_visible
        self._routes = {route.key: route for route in root.walk()}
        self._groups: dict[str, Group] = {}
        self._groups_of: dict[AlertKey, set[str]] = defaultdict(set)
        self._changes: Changes = {}
        self._flushed_at = 0
        self._next_flush: int | None = None
        self.outbox: dict[str, dict[str, Entry]] = {name: {} for name in receivers}
        """What waits, by receiver and group, the oldest first."""
        self.failing: dict[str, str] = {}
        """The receivers whose fallback is used, with the reason."""

    # -- input

    def apply(self, change: AlertChange, now: int) -> None:
        """Apply a change of an alert. One that has been applied already has no effect."""
        routed = self._groups_for(change) if change.alert.is_open else {}
        present = set(self._groups_of.get(change.key, ()))
        for key in present | routed.keys():
            group = self._groups.get(key)
            known = group.alerts.get(change.key) if group is not None else None
            if known is not None and known.sequence >= change.sequence:
                continue
            if group is None or known is None:
                if key not in routed or change.alert.status not in ADDED:
                    continue
                group = group or self._create(key, *routed[key], now)
            moved = change.alert.is_open and key not in routed
            stored = _resolve(change, now) if moved else change
            self._store_alert(group, stored if known is None else _keep_severity(stored, known))

    def flush(self, now: int) -> None:
        """Compare the groups that are due with what their receivers know."""
        is_clock_set_back = now < self._flushed_at
        self._flushed_at = now
        if not is_clock_set_back and (self._next_flush is None or now < self._next_flush):
            return
        for group in list(self._groups.values()):
            row, route = group.row, group.route
            # A clock that was set back must not silence a group for hours.
            limit = now + max(route.group_wait, route.group_interval)
            if row.flush_at > limit:
                row.flush_at = limit
            if row.flush_at <= now:
                self._flush_group(group, now)
                row.flush_at = now + route.group_interval
                if row.key in self._groups:
                    self._put(_group_key(row.key), row)
        due = [group.row.flush_at for group in self._groups.values()]
        self._next_flush = min(due, default=None)

    def next_flush(self) -> int | None:
        """Return when the next group is due; None without groups."""
        return self._next_flush

    def confirm(
        self,
        receiver: str,
        key: str,
        entry: Entry,
        reference: str | None,
        *,
        is_refused: bool = False,
    ) -> None:
        """Note that a receiver has accepted a notification; `reference` is what it returned, None
        for what is known already."""
        group = self._groups.get(key)
        target = group.targets.get(receiver) if group is not None else None
        if group is None or target is None:
            return
        target.confirmed = {
            name: status for name, status in entry.statuses.items() if status != "resolved"
        }
        if entry.episode == target.episode and reference is not None:
            target.reference = reference
        if target.pending is not None and target.pending.version <= entry.version:
            self._set_pending(target, None)
        target.has_refused = is_refused or (target.has_refused and bool(target.confirmed))
        self._put(_target_key(target), target)
        self._prune(group)

    def refuse(self, receiver: str, key: str, entry: Entry, now: int) -> None:
        """Note that a receiver will never accept a notification; its fallback gets it at once."""
        self.confirm(receiver, key, entry, None, is_refused=True)
        if (group := self._groups.get(key)) is not None:
            self._flush_group(group, now)

    def set_failing(self, receiver: str, note: str, now: int) -> None:
        """Use the fallback of a receiver from now on, also for what waits already; `note` says why.
        With an empty note, stop using it."""
        if not note:
            self.failing.pop(receiver, None)
            return
        self.failing[receiver] = note
        for key in list(self.outbox.get(receiver, ())):
            self._flush_group(self._groups[key], now)

    def labels(self, key: str) -> Mapping[str, str]:
        """Return the labels of a group; empty for one that does not exist."""
        group = self._groups.get(key)
        return {} if group is None else group.row.labels

    def reference(self, receiver: str, key: str) -> str:
        """Return what the notifier of a receiver has returned for a group."""
        group = self._groups.get(key)
        target = None if group is None else group.targets.get(receiver)
        return "" if target is None else target.reference

    # -- durable state

    def take_changes(self) -> Changes:
        """Return the rows that have changed since the last call."""
        changes, self._changes = self._changes, {}
        return changes

    def load(self, rows: Mapping[str, bytes], now: int) -> None:
        """Restore the groups from the rows of the store, and route their alerts by the present
        configuration."""
        orphans: list[AlertChange] = []
        for key, value in _rows_of(rows, "group"):
            row: GroupRow = decode_row(value, GroupRow)
            if (route := self._find_route(row.route)) is None:
                self._changes[key] = None
            else:
                self._groups[row.key] = Group(row, route)
        for key, value in _rows_of(rows, "alert"):
            change: AlertChange = decode_row(value, AlertChange)
            if (group := self._groups.get(key.split("/")[1])) is None:
                self._changes[key] = None
                orphans.append(change)
            else:
                group.alerts[change.key] = change
                self._groups_of[change.key].add(group.row.key)
        for key, value in _rows_of(rows, "target"):
            target: TargetRow = decode_row(value, TargetRow)
            group = self._groups.get(target.group)
            if group is None or target.receiver not in self._receivers:
                self._changes[key] = None
            else:
                group.targets[target.receiver] = target
        self._restore_outbox()
        due = [group.row.flush_at for group in self._groups.values()]
        self._next_flush = min(due, default=None)
        for change in [*orphans, *self._list_alerts()]:
            self._route_again(change, now)

    def _restore_outbox(self) -> None:
        targets = [target for group in self._groups.values() for target in group.targets.values()]
        for target in sorted(targets, key=lambda each: each.pending.created if each.pending else 0):
            if target.pending is not None:
                self.outbox[target.receiver][target.group] = target.pending

    def _list_alerts(self) -> list[AlertChange]:
        return [change for group in self._groups.values() for change in group.alerts.values()]

    def _route_again(self, change: AlertChange, now: int) -> None:
        """Move an open alert to the groups that the configuration assigns it to."""
        if not change.alert.is_open:
            return
        routed, present = self._groups_for(change), set(self._groups_of.get(change.key, ()))
        for key in routed.keys() - present:
            self._store_alert(self._groups.get(key) or self._create(key, *routed[key], now), change)
        for key in present - routed.keys():
            self._store_alert(self._groups[key], _resolve(change, now))

    # -- inside

    def _groups_for(self, change: AlertChange) -> dict[str, tuple[Route, dict[str, str]]]:
        labels = routing_labels(change.alert)
        notify = [name for name in change.notify if name in self._receivers]
        return {
            group_key(route, labels): (route, route.group_labels(labels))
            for route in routes_of(self._root, change.alert, notify)
        }

    def _find_route(self, key: str) -> Route | None:
        if not key.startswith(DIRECT):
            return self._routes.get(key)
        names = tuple(key.removeprefix(DIRECT).split(","))
        return msgspec.structs.replace(self._root, key=key, receivers=names, routes=())

    def _create(self, key: str, route: Route, labels: dict[str, str], now: int) -> Group:
        row = GroupRow(key=key, route=route.key, labels=labels, flush_at=now + route.group_wait)
        group = self._groups[key] = Group(row, route)
        self._put(_group_key(key), row)
        self._next_flush = min(self._next_flush or row.flush_at, row.flush_at)
        return group

    def _store_alert(self, group: Group, change: AlertChange) -> None:
        known = group.alerts.get(change.key)
        group.alerts[change.key] = change
        self._groups_of[change.key].add(group.row.key)
        # An alert is published often while its value changes; that alone is not worth a write.
        if known is None or _durable_part(known) != _durable_part(change):
            self._put(_alert_key(group.row.key, change.key), change)

    def _flush_group(self, group: Group, now: int) -> None:
        """Make the notifications that are needed."""
        for name, note in self._receivers_of(group).items():
            traits = self._receivers[name]
            target = group.targets.get(name) or TargetRow(group=group.row.key, receiver=name)
            changes = self._changes_for(group, target, now)
            entry = decide(changes, target, traits, group.route.repeat_interval, now, note)
            if entry is not None:
                self._accept_entry(group, target, entry)
            elif not traits.send_resolved:
                self._forget_resolved(group, target)
        self._prune(group)

    def _changes_for(self, group: Group, target: TargetRow, now: int) -> list[AlertChange]:
        """The alerts of a group that a receiver may see, and the end of those that it knows and may
        not see any more: about further origins or namespaces, for example."""
        changes = []
        for change in group.alerts.values():
            if self._is_visible(target.receiver, change):
                changes.append(change)
            elif target.may_know(change.key):
                changes.append(_hide(change, now))
        return changes

    def _accept_entry(self, group: Group, target: TargetRow, entry: Entry) -> None:
        if entry.episode != target.episode:
            target.reference, target.has_refused = "", False
        target.version, target.episode = entry.version, entry.episode
        if not entry.is_quiet:
            target.notified_at = entry.created
        group.targets[target.receiver] = target
        self._set_pending(target, entry)
        self._put(_target_key(target), target)

    def _set_pending(self, target: TargetRow, entry: Entry | None) -> None:
        target.pending = entry
        waiting = self.outbox[target.receiver]
        if entry is None:
            waiting.pop(target.group, None)
        else:
            # A replaced one keeps its place.
            waiting[target.group] = entry

    def _forget_resolved(self, group: Group, target: TargetRow) -> None:
        """Drop what has been resolved from what a receiver knows that is not notified of it."""
        left = {
            key: status
            for key, status in target.confirmed.items()
            if key in group.alerts and group.alerts[key].alert.is_open
        }
        if left != target.confirmed:
            target.confirmed = left
            self._put(_target_key(target), target)

    def _receivers_of(self, group: Group) -> dict[str, str]:
        """The receivers of a group, each with a note where it stands in for another one."""
        receivers: dict[str, str] = {}
        pending = [(name, "") for name in group.route.receivers]
        while pending:
            name, note = pending.pop(0)
            if name in receivers or name not in self._receivers:
                continue
            receivers[name] = note
            reason = self.failing.get(name, "")
            target = group.targets.get(name)
            if not reason and target is not None and target.has_refused:
                reason = f"Receiver {name} has refused this notification."
            if reason and (fallback := self._receivers[name].fallback):
                pending.append((fallback, reason))
        for name, target in group.targets.items():
            if target.confirmed or target.pending is not None:
                # It was a fallback, or a receiver by a former configuration: it gets the end.
                receivers.setdefault(name, "")
        return receivers

    def _prune(self, group: Group) -> None:
        """Remove alerts that are over and that no receiver has to be notified of any more."""
        key = group.row.key
        for name in [name for name, each in group.alerts.items() if not each.alert.is_open]:
            if not any(target.involves(name) for target in group.targets.values()):
                del group.alerts[name]
                self._changes[_alert_key(key, name)] = None
                self._groups_of[name].discard(key)
                if not self._groups_of[name]:
                    del self._groups_of[name]
        if not group.alerts:
            for target in group.targets.values():
                self._set_pending(target, None)
                self._changes[_target_key(target)] = None
            self._changes[_group_key(key)] = None
            del self._groups[key]

    def _put(self, key: str, row: msgspec.Struct) -> None:
        self._changes[key] = encode_row(row)


def _durable_part(change: AlertChange) -> tuple[object, ...]:
    """What a restart must not forget of a change: the status, and who may see the alert."""
    return change.alert.status, change.origin, change.namespace, change.own_labels


def _keep_severity(change: AlertChange, known: AlertChange) -> AlertChange:
    """The change of an alert that ends, with the severity that it had: receivers compare alerts by
    their labels, and the severity is one of them."""
    if change.alert.is_open:
        return change
    alert = msgspec.structs.replace(change.alert, severity=known.alert.severity)
    return msgspec.structs.replace(change, alert=alert)


def _resolve(change: AlertChange, now: int) -> AlertChange:
    """The change of an alert that leaves a group without having ended."""
    alert = msgspec.structs.replace(
        change.alert, status="resolved", ended=now, cause="It is notified in another group now."
    )
    return msgspec.structs.replace(change, alert=alert)


def _hide(change: AlertChange, now: int) -> AlertChange:
    """The end of an alert for a receiver that knows it and may not see what it is about now: with
    what identifies it, and nothing that it has learned since."""
    before = change.alert
    alert = Alert(
        rule=before.rule, fingerprint=before.fingerprint, status="resolved",
        severity=before.severity, labels=before.labels, runbook=before.runbook,
        since=before.since, started=before.started, ended=before.ended or now,
        cause="This receiver may not see it any more.",
    )  # fmt: skip
    return msgspec.structs.replace(change, alert=alert)


def _group_key(group: str) -> str:
    return f"group/{group}"


def _alert_key(group: str, alert: AlertKey) -> str:
    return f"alert/{group}/{alert}"


def _target_key(target: TargetRow) -> str:
    return f"target/{target.group}/{target.receiver}"


def _rows_of(rows: Mapping[str, bytes], kind: str) -> Iterator[tuple[str, bytes]]:
    return ((key, value) for key, value in rows.items() if key.startswith(f"{kind}/"))
