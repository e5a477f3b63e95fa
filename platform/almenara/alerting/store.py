"""The alerts and silences of the evaluator: in memory, and written through to its state."""

import copy
from collections import Counter
from typing import Final

from almenara.alerting.commands import Silence
from almenara.alerting.members import Members
from almenara.alerting.model import Alert, place_of
from almenara.alerting.overlays import Dependencies, Silences
from almenara.alerting.rules import Rule, RuleSet
from almenara.hookspecs import ProcessorState, Step

ALERTS: Final = "alert/"
SILENCES: Final = "silence/"
BLIND: Final = "blind/"
DIGEST: Final = "rule/"
KNOWN_SOURCE: Final = "source/"
REMOVED: Final = "removed/"
"""Prefix of the timers of sources that were removed."""


class AlertStore:
    """Everything that the evaluator remembers, restored from its state."""

    def __init__(self, rules: RuleSet, state: ProcessorState) -> None:
        self.state = state
        self.alerts: dict[str, Alert] = {}
        self.counts: Counter[str] = Counter()
        """Alerts by rule, those in windows that are not full included."""
        self.silences = Silences()
        self.dependencies = Dependencies(rules)
        self.members = Members(state)
        self.blind: dict[str, int] = {}
        """Sources that cannot observe their systems, with since when."""
        self.sources = {key.removeprefix(KNOWN_SOURCE) for key in state.keys(KNOWN_SOURCE)}
        """The sources that exist."""
        for key in state.keys(ALERTS):
            if (alert := state.get(key, Alert)) is not None:
                self._put(alert)
                place = place_of(alert)
                if alert.metric and place is not None and not self.members.of_alert(alert.key):
                    # Earlier versions did not store it.
                    self.members.add(alert.key, place)
        for key in state.keys(SILENCES):
            if (silence := state.get(key, Silence)) is not None:
                self.silences.add(silence)
        for key in state.keys(BLIND):
            self.blind[key.removeprefix(BLIND)] = state.get(key, int) or 0

    def get(self, key: str) -> Alert | None:
        """Return a copy of an alert, which `put` stores once nothing can fail any more."""
        alert = self.alerts.get(key)
        if alert is None:
            return None
        alert = copy.copy(alert)
        alert.deadlines = dict(alert.deadlines)
        return alert

    def of_rule(self, rule: str) -> list[str]:
        """Return the keys of the alerts of a rule."""
        return [key for key, alert in self.alerts.items() if alert.rule == rule]

    def put(self, alert: Alert, step: Step) -> set[str]:
        """Store an alert and set its timer. Returns the keys of alerts whose inhibition may have
        changed by it."""
        self.state.set(ALERTS + alert.key, alert)
        if alert.deadlines:
            step.set_timer(ALERTS + alert.key, min(alert.deadlines.values()))
        else:
            step.cancel_timer(ALERTS + alert.key)
        return self._put(alert)

    def _put(self, alert: Alert) -> set[str]:
        if alert.key not in self.alerts:
            self.counts[alert.rule] += 1
        self.alerts[alert.key] = alert
        return self.dependencies.update(alert)

    def forget(self, alert: Alert, step: Step) -> None:
        """Remove an alert."""
        if self.alerts.pop(alert.key, None) is not None:
            self.counts[alert.rule] -= 1
        self.members.forget(alert.key)
        self.state.delete(ALERTS + alert.key)
        step.cancel_timer(ALERTS + alert.key)

    def add_silence(self, silence: Silence, step: Step) -> None:
        """Store a silence. Raises `ValueError`."""
        self.silences.add(silence)
        self.turn_silence(silence, step)

    def turn_silence(self, silence: Silence, step: Step) -> None:
        """Note that a silence has become active or inactive, and wait for its next change."""
        silence.reached = step.time
        key = SILENCES + silence.id
        self.state.set(key, silence)
        step.set_timer(key, silence.next_change(step.time))

    def remove_silence(self, identity: str, step: Step) -> Silence | None:
        """Remove a silence, and return it."""
        self.state.delete(SILENCES + identity)
        step.cancel_timer(SILENCES + identity)
        return self.silences.remove(identity)

    def add_source(self, name: str) -> None:
        """Note that a source exists."""
        if name not in self.sources:
            self.sources.add(name)
            self.state.set(KNOWN_SOURCE + name, True)

    def remove_source(self, name: str) -> None:
        """Note that a source does not exist any more."""
        self.sources.discard(name)
        self.state.delete(KNOWN_SOURCE + name)

    def set_blind(self, source: str, since: int) -> None:
        """Note that a source cannot observe its system."""
        self.blind[source] = since
        self.state.set(BLIND + source, since)

    def clear_blind(self, source: str) -> None:
        """Note that a source observes its system."""
        self.blind.pop(source, None)
        self.state.delete(BLIND + source)

    def has_changed(self, rule: Rule) -> bool:
        """Whether a rule has another condition than at the last call of this."""
        key = DIGEST + rule.name
        before = self.state.get(key, str)
        if before != rule.digest:
            self.state.set(key, rule.digest)
        return before is not None and before != rule.digest
