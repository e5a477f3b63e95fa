"""What keeps an alert that fires from notifying: silences, and alerts of what it depends on."""

from typing import Final

from almenara.alerting import SOURCE
from almenara.alerting.commands import Silence
from almenara.alerting.matchers import Matcher, match_all, parse_matcher
from almenara.alerting.model import Alert, Place, place_of
from almenara.alerting.rules import RuleSet

MAX_SILENCES: Final = 1_000


class Silences:
    """Silences that have not ended."""

    def __init__(self) -> None:
        self.by_id: dict[str, Silence] = {}
        self._matchers: dict[str, list[Matcher]] = {}

    def add(self, silence: Silence) -> None:
        """Add a silence. Raises `ValueError` for wrong matchers or too many silences."""
        if len(self.by_id) >= MAX_SILENCES:
            raise ValueError(f"there are {MAX_SILENCES:,} silences already")
        self._matchers[silence.id] = [parse_matcher(text) for text in silence.matchers]
        self.by_id[silence.id] = silence

    def remove(self, identity: str) -> Silence | None:
        """Remove a silence, and return it."""
        self._matchers.pop(identity, None)
        return self.by_id.pop(identity, None)

    def find(self, labels: dict[str, str], time: int) -> str:
        """Return the id of an active silence that covers these labels; empty without one."""
        for identity, silence in self.by_id.items():
            moment = max(time, silence.reached)
            if silence.is_active(moment) and match_all(self._matchers[identity], labels):
                return identity
        return ""


class Dependencies:
    """Alerts that fire, by the resource they are about and by those they depend on."""

    def __init__(self, rules: RuleSet) -> None:
        self._rules = rules
        self.firing: dict[str, Alert] = {}
        self._by_place: dict[Place, set[str]] = {}
        self._children: dict[Place, set[str]] = {}

    def update(self, alert: Alert) -> set[str]:
        """Note the present phase, labels and resource of an alert. Returns the keys of the alerts
        whose inhibition may have changed by it."""
        before = self.firing.pop(alert.key, None)
        if before is not None:
            self._index(before, is_added=False)
        after = alert if alert.phase == "firing" else None
        if after is not None:
            self.firing[alert.key] = after
            self._index(after, is_added=True)
        if before is None or after is None or self._inhibits_others(before, after):
            return self._dependants(before) | self._dependants(after)
        return set()

    def _inhibits_others(self, before: Alert, after: Alert) -> bool:
        """Whether an alert that fires may inhibit other alerts than before."""
        if place_of(before) != place_of(after):
            return True
        has_inhibitions = bool(self._rules.inhibitions)
        return has_inhibitions and self._labels(before) != self._labels(after)

    def _index(self, alert: Alert, *, is_added: bool) -> None:
        own = place_of(alert)
        pairs = [(self._by_place, own)] if own is not None else []
        pairs += [(self._children, place) for place in self._parents(alert)]
        for index, place in pairs:
            if is_added:
                index.setdefault(place, set()).add(alert.key)
                continue
            keys = index.get(place, set())
            keys.discard(alert.key)
            if not keys:
                index.pop(place, None)

    def _parents(self, alert: Alert) -> list[Place]:
        own = place_of(alert)
        sources = [(name, SOURCE, "", name) for name in source_names(alert.origin)]
        return [place for place in (*alert.parents, *sources) if place != own]

    def _dependants(self, alert: Alert | None) -> set[str]:
        if alert is None:
            return set()
        own = place_of(alert)
        keys = set() if own is None else set(self._children.get(own, ()))
        labels = self._labels(alert)
        for inhibition in self._rules.inhibitions:
            if match_all(inhibition.source, labels):
                keys |= {
                    key
                    for key, other in self.firing.items()
                    if inhibition.applies(labels, self._labels(other))
                }
        return keys - {alert.key}

    def find_root(self, alert: Alert) -> str:
        """Return the key of an alert that inhibits this one; empty without one."""
        for place in self._parents(alert):
            for key in sorted(self._by_place.get(place, ())):
                if self._can_inhibit(key, alert):
                    return key
        labels = self._labels(alert)
        for inhibition in self._rules.inhibitions:
            if not match_all(inhibition.target, labels):
                continue
            for key, other in self.firing.items():
                if self._can_inhibit(key, alert) and inhibition.applies(
                    self._labels(other), labels
                ):
                    return key
        return ""

    def _can_inhibit(self, key: str, alert: Alert) -> bool:
        # Two alerts that inhibited each other would both stay silent.
        return key != alert.key and self.firing[key].inhibited_by != alert.key

    def _labels(self, alert: Alert) -> dict[str, str]:
        rule = self._rules.rules.get(alert.rule)
        return alert.match_labels(rule.severity(alert) if rule is not None else "")


def source_names(origin: str) -> list[str]:
    """Return the names that the source of an origin may have: `ray/prod` and `ray`."""
    parts = origin.split("/")
    return ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]
