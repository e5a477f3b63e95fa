"""The book of alerts: stores them, overlays silences and inhibition, and publishes transitions."""

from typing import Any, Final

from almenara.alerting import machine
from almenara.alerting.conditions import Absence
from almenara.alerting.model import (
    Alert,
    displayed_status,
    make_event,
    make_fingerprint,
    make_resource,
    make_state,
)
from almenara.alerting.rules import Rule, RuleSet
from almenara.alerting.store import AlertStore
from almenara.hookspecs import Step
from almenara.scope import INHIBITED_BY
from almenara.signals import Signal
from almenara.units import SECOND

REFRESH: Final = 30 * SECOND
"""Time after which the value of an alert is published again where it has changed."""


ASSIGNED: Final = "assigned"
"""End of the type of the event about an assignment."""


class AlertBook:
    """All alerts of one run of the evaluator. `begin` starts each step."""

    def __init__(self, rules: RuleSet, step: Step) -> None:
        self.rules, self.step = rules, step
        self.store = AlertStore(rules, step.state)
        self.derived: list[Signal] = []

    def begin(self, step: Step) -> None:
        """Start a step: what it derives is collected in `derived`."""
        self.step, self.derived = step, []

    def save(self, alert: Alert, rule: Rule) -> None:
        """Store an alert, and publish it where its status, value or text has changed."""
        store, time = self.store, self.step.time
        alert.silenced_by = alert.inhibited_by = ""
        if alert.phase == "firing":
            labels = alert.match_labels(rule.severity(alert))
            alert.silenced_by = store.silences.find(labels, time)
            alert.inhibited_by = store.dependencies.find_root(alert)
        before, alert.status = alert.status, displayed_status(alert)
        known = store.alerts.get(alert.key)
        has_news = known is not None and (
            known.value != alert.value or known.annotations != alert.annotations
        )
        if alert.status != before:
            self._publish(alert, rule, with_event=bool(alert.status))
        elif alert.status and has_news and time - alert.published >= REFRESH:
            self._publish(alert, rule, with_event=False)
        self._put(alert)

    def save_assignment(self, alert: Alert, rule: Rule, by: str) -> None:
        """Store and publish who takes care of an alert, with an event about the assignment."""
        time = self.step.time
        self._publish(alert, rule, with_event=False)
        state = {"assignee": alert.assignee, "by": by, "severity": rule.severity(alert)}
        identity = self.step.event_id(alert.key, ASSIGNED)
        event = make_event(alert, state, "INFO", time, identity, kind=ASSIGNED)
        self.derived.append(event)
        self._put(alert)

    def _put(self, alert: Alert) -> None:
        for key in sorted(self.store.put(alert, self.step)):
            self.refresh(key)

    def refresh(self, key: str) -> None:
        """Apply silences and inhibition to an alert again."""
        alert = self.store.get(key)
        rule = self.rules.rules.get(alert.rule) if alert is not None else None
        if alert is not None and rule is not None:
            self.save(alert, rule)

    def refresh_firing(self) -> None:
        """Apply silences and inhibition to every alert that fires again."""
        for key in sorted(self.store.dependencies.firing):
            self.refresh(key)

    def _publish(self, alert: Alert, rule: Rule, *, with_event: bool) -> None:
        settings, time = rule.settings, self.step.time
        state = make_state(alert, runbook=settings.runbook, notify=settings.notify)
        severity = state["severity"] = rule.severity(alert)
        alert.published = time
        self.derived.append(make_resource(alert, state, severity, time))
        if with_event:
            identity = self.step.event_id(alert.key, alert.status)
            data = self._without_hidden_root(alert, state)
            self.derived.append(make_event(alert, data, severity, time, identity))

    def _without_hidden_root(self, alert: Alert, state: dict[str, Any]) -> dict[str, Any]:
        """The data of an event: with the key of the alert that inhibits this one only where
        everyone who sees the event sees that alert. Events are stored, and cannot be adjusted to
        the scope of a viewer as resources are."""
        root = self.store.dependencies.firing.get(alert.inhibited_by)
        if root is not None and root.is_visible_with(alert):
            return state
        return {name: value for name, value in state.items() if name != INHIBITED_BY}

    def end(self, alert: Alert) -> None:
        """End an alert whose rule does not exist any more, or has another condition."""
        time = self.step.time
        state = make_state(alert, runbook="", notify=[])
        if alert.phase == "firing":
            machine.resolve(alert, time)
            alert.status = "resolved"
            state = make_state(alert, runbook="", notify=[])
            state["reason"] = "its rule was changed or removed"
            identity = self.step.event_id(alert.key, alert.status)
            self.derived.append(make_event(alert, state, "INFO", time, identity))
        alert.phase, alert.status = "inactive", ""
        self.derived.append(make_resource(alert, state, "INFO", time))
        self._put(alert)
        self.store.forget(alert, self.step)

    def compare_with_rules(self) -> None:
        """End the alerts of rules that were changed or removed while nothing ran, and begin to wait
        for the first event of rules about absence."""
        for rule in self.rules.rules.values():
            if self.store.has_changed(rule):
                self._end_all(self.store.of_rule(rule.name))
            self._expect(rule)
        self._end_all(
            [key for key, alert in self.store.alerts.items() if alert.rule not in self.rules.rules]
        )
        self.refresh_firing()

    def _end_all(self, keys: list[str]) -> None:
        for key in keys:
            if (alert := self.store.get(key)) is not None:
                self.end(alert)

    def _expect(self, rule: Rule) -> None:
        condition = rule.condition
        if not isinstance(condition, Absence) or rule.settings.group_by:
            return
        alert = Alert(
            rule=rule.name, fingerprint=make_fingerprint(rule.name, {}), group={}, labels={}
        )
        if alert.key not in self.store.alerts:
            verdict = condition.expect(self.step.time)
            machine.observe(
                alert, verdict, rule.settings, self.rules.settings.flapping, self.step.time
            )
            self.save(alert, rule)
