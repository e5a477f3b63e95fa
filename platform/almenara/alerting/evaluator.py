"""The evaluator: a processor that reads signals and commands, and publishes alerts."""

from collections.abc import Iterable
from typing import Final, TypeGuard

import msgspec

from almenara.alerting import COMMAND, ORIGIN, RULE, SOURCE, machine
from almenara.alerting.actions import obey, turn_silence
from almenara.alerting.book import REFRESH, AlertBook
from almenara.alerting.commands import STARTED
from almenara.alerting.endings import end_resource, end_source, leave_other_groups
from almenara.alerting.model import Alert, displayed_status, make_fingerprint
from almenara.alerting.overlays import source_names
from almenara.alerting.resource_condition import is_unobserved
from almenara.alerting.rules import Rule, RuleSet
from almenara.alerting.signals import resource_key, scope_labels
from almenara.alerting.store import ALERTS, BLIND, REMOVED, SILENCES
from almenara.errors import describe_error
from almenara.hookspecs import Step, Subscription
from almenara.scope import SEVERAL_NAMESPACES, namespace_of
from almenara.signals import Event, Resource, Sample, Severity, Signal
from almenara.units import MINUTE, SECOND

NAME: Final = "alerts"
FAILURE_VISIBLE: Final = 10 * MINUTE
"""How long a rule is shown as failing after a group that could not be evaluated."""
REMOVAL_CONFIRMED: Final = MINUTE
"""How long a source must be gone before the alerts about what it observed end."""
NOT_STARTED: Final = ("", "pending", "resolved")
"""Statuses of an alert of which no receiver knows that it fires."""
BLIND_RETRY: Final = 30 * SECOND
BLIND_STATUSES: Final = frozenset(("degraded", "blocked", "backing_off", "stopped"))


class RuleHealth(msgspec.Struct):
    """What the page of rules shows of the evaluation of one."""

    evaluations: int = 0
    evaluated: int = 0
    """When it was evaluated last, in microseconds since the epoch."""
    failures: int = 0
    error: str = ""
    """Why an evaluation failed; empty once the same group was evaluated, or nothing has failed for
    some time."""
    failed_group: dict[str, str] | None = None
    """The group whose evaluation failed last; None where it is not known."""
    failed_at: int = 0


class Evaluator:
    """Evaluates all rules. A rule that fails is reported and stops no other."""

    name = NAME

    def __init__(self, rules: RuleSet) -> None:
        self.rules, self.settings = rules, rules.settings
        self.health = {name: RuleHealth() for name in rules.rules}
        conditions = [rule.condition for rule in rules.rules.values()]
        self.subscription = Subscription(
            events=(f"{COMMAND}.*", *{name for each in conditions for name in each.events}),
            resources=(
                SOURCE,
                *{name for each in conditions for name in (*each.resources, *each.measured)},
            ),
            samples=tuple({name for each in conditions for name in each.samples}),
        )
        self._book: AlertBook | None = None

    def on_signal(self, signal: Signal, step: Step) -> Iterable[Signal]:
        book = self._begin(step)
        try:
            self._process(signal, book)
        except BaseException:
            # The state of this step is discarded; what is in memory must be read again.
            self._book = None
            raise
        return book.derived

    def on_timer(self, key: str, step: Step) -> Iterable[Signal]:
        book = self._begin(step)
        try:
            self._process_timer(key, book)
        except BaseException:
            self._book = None
            raise
        return book.derived

    def _begin(self, step: Step) -> AlertBook:
        """Return the alerts of this run; a restarted run has another state."""
        if self._book is None or self._book.store.state is not step.state:
            self._book = AlertBook(self.rules, step)
        self._book.begin(step)
        return self._book

    def _process(self, signal: Signal, book: AlertBook) -> None:
        if isinstance(signal, Event) and signal.type.startswith(f"{COMMAND}."):
            # Only the platform publishes with this origin: a message of a monitored system must not
            # silence anything.
            if signal.origin == ORIGIN:
                obey(signal, book)
                if signal.type == STARTED:
                    for rule in self.rules.rules.values():
                        self._publish_rule(rule, book)
            return
        # Only the platform publishes a source with the name of the source as origin.
        if isinstance(signal, Resource) and signal.kind == SOURCE and signal.origin == signal.name:
            self._note_source(signal, book)
        if isinstance(signal, Resource) and signal.deleted:
            end_resource(signal, book)
        for rule in self.rules.of_signal(signal):
            self._evaluate(rule, signal, book)

    def _process_timer(self, key: str, book: AlertBook) -> None:
        if key.startswith(ALERTS):
            self._reach(key.removeprefix(ALERTS), book)
        elif key.startswith(SILENCES):
            turn_silence(key.removeprefix(SILENCES), book)
        elif key.startswith(REMOVED):
            end_source(key.removeprefix(REMOVED), book)
        elif key.removeprefix(BLIND) in book.store.blind:
            self._mark_blind(key.removeprefix(BLIND), book, is_blind=True)

    # Rules

    def _evaluate(self, rule: Rule, signal: Signal, book: AlertBook) -> None:
        health = self.health[rule.name]
        health.evaluations += 1
        health.evaluated = book.step.time
        group = None
        try:
            if not rule.selects(signal):
                return
            group = rule.group(signal)
            self._apply(rule, group, signal, book)
        except Exception as error:
            self._report_failure(rule, group, error, book)
            return
        # That other groups can be evaluated does not mean that nothing is missed.
        is_old = book.step.time - health.failed_at > FAILURE_VISIBLE
        if health.error and (group == health.failed_group or is_old):
            health.error = ""
            self._publish_rule(rule, book)

    def _apply(self, rule: Rule, group: dict[str, str], signal: Signal, book: AlertBook) -> None:
        store, condition, time = book.store, rule.condition, book.step.time
        key = f"{rule.name}/{make_fingerprint(rule.name, group)}"
        if isinstance(signal, Resource) and not (signal.deleted or is_unobserved(signal)):
            leave_other_groups(signal, rule, key, book)
        alert = store.get(key) or Alert(
            rule=rule.name, fingerprint=key.rpartition("/")[2], group=group, labels={}
        )
        verdict = condition.observe(signal, alert, time)
        is_idle = not verdict.holds and alert.phase == "inactive"
        # An event that ends what never began leaves nothing to remember.
        if is_idle and not (condition.has_memory and (verdict.waits or key in store.alerts)):
            return
        limit = self.settings.max_alerts_per_rule
        if key not in store.alerts and store.counts[rule.name] >= limit:
            raise ValueError(
                f"it has {limit:,} alerts, the limit alerting.max_alerts_per_rule; further ones are"
                " left out"
            )
        machine.observe(alert, verdict, rule.settings, self.settings.flapping, time)
        is_first, is_cause = not alert.origin, verdict.holds and verdict.is_known and verdict.counts
        if verdict.counts or is_first:
            widen(alert, rule, signal)
        if is_cause or is_first:
            self._note_subject(alert, signal)
        if is_cause:
            self._describe(alert, rule, signal, book)
        book.save(alert, rule)
        if alert.phase == "inactive" and not (condition.has_memory and alert.deadlines):
            store.forget(alert, book.step)
        elif has_members(signal, rule):
            store.members.add(key, (signal.origin, *signal.key))

    def _note_subject(self, alert: Alert, signal: Signal) -> None:
        """Note which resource an alert is about: that of the signal that made its condition hold
        last."""
        alert.resource, alert.parents = resource_key(signal), self.rules.parents(signal)
        alert.resource_origin = signal.origin
        alert.correlation = signal.correlation if isinstance(signal, Event) else None
        alert.metric = signal.metric if isinstance(signal, Sample) else ""

    def _describe(self, alert: Alert, rule: Rule, signal: Signal, book: AlertBook) -> None:
        """Write the texts of an alert from the signal that makes its condition hold."""
        alert.cause = str(book.step.sequence)
        if alert.status in NOT_STARTED and not isinstance(signal, Sample):
            # Not while it fires: receivers recognize an alert by its labels.
            alert.signal_severity = signal.severity.name
        is_published = displayed_status(alert) != alert.status
        if is_published or alert.phase == "pending" or (
            book.step.time - alert.published >= REFRESH
        ):  # fmt: skip
            alert.annotations = rule.render(alert, rule.values(signal))

    def _reach(self, key: str, book: AlertBook) -> None:
        """Apply the deadlines of an alert that are due."""
        store = book.store
        while (alert := store.get(key)) is not None and alert.deadlines:
            name, at = min(alert.deadlines.items(), key=lambda item: item[1])
            if at > book.step.time:
                book.step.set_timer(ALERTS + key, at)
                return
            rule = self.rules.rules.get(alert.rule)
            if rule is None:
                book.end(alert)
                return
            if name == "until":
                self._expire(alert, rule, at, book)
            else:
                machine.reach(alert, name, rule.settings, self.settings.flapping, at)
            can_forget = alert.phase == "inactive" and not alert.deadlines
            if name == "absent":
                alert.cause = f"absent:{at}"
                alert.labels = alert.labels or rule.labels({}, alert.group)
                self._render_absence(alert, rule, book)
            if name in ("absent", "for"):
                alert.is_blind = self._is_blind(alert, book)
            book.save(alert, rule)
            if can_forget:
                store.forget(alert, book.step)

    def _render_absence(self, alert: Alert, rule: Rule, book: AlertBook) -> None:
        """Write the texts of an alert about absence. No signal comes with which this could be
        repeated, so that an alert whose template fails has the text of its condition."""
        try:
            alert.annotations = rule.render(alert, {"origin": alert.origin, **alert.group})
        except Exception as error:
            alert.annotations = {"summary": rule.condition.describe(alert)}
            self._report_failure(rule, alert.group, error, book)

    def _expire(self, alert: Alert, rule: Rule, at: int, book: AlertBook) -> None:
        """Evaluate a condition that ends without a signal: not while its source is blind."""
        del alert.deadlines["until"]
        if self._is_blind(alert, book):
            alert.deadlines["until"] = at + BLIND_RETRY
        else:
            verdict = rule.condition.expire(alert, at)
            machine.observe(alert, verdict, rule.settings, self.settings.flapping, at)

    # Failing rules

    def _report_failure(
        self, rule: Rule, group: dict[str, str] | None, error: Exception, book: AlertBook
    ) -> None:
        health = self.health[rule.name]
        health.failures += 1
        health.failed_group, health.failed_at = group, book.step.time
        text = describe_error(error, with_type=not isinstance(error, ValueError))
        is_new, health.error = not health.error, text
        if is_new:
            self._publish_rule(rule, book)

    def _publish_rule(self, rule: Rule, book: AlertBook) -> None:
        error = self.health[rule.name].error
        resource = Resource(
            kind=RULE, name=rule.name, status="failing" if error else "ok", time=book.step.time,
            severity=Severity.ERROR if error else Severity.INFO, origin=ORIGIN,
            state={"error": error} if error else {},
        )  # fmt: skip
        book.derived.append(resource)
        for other in self.rules.of_signal(resource):
            # The rule about failing rules may fail too.
            if other is not rule:
                self._evaluate(other, resource, book)

    # Sources

    def _note_source(self, signal: Resource, book: AlertBook) -> None:
        name, step = signal.name, book.step
        if signal.deleted:
            # Not at once: a plugin that is reloaded has its sources again in a moment.
            book.store.remove_source(name)
            step.set_timer(REMOVED + name, step.time + REMOVAL_CONFIRMED)
        else:
            book.store.add_source(name)
            step.cancel_timer(REMOVED + name)
        if signal.status in BLIND_STATUSES and not signal.deleted:
            if name not in book.store.blind:
                book.store.set_blind(name, step.time)
                grace = int(self.settings.source_grace * SECOND)
                step.set_timer(BLIND + name, step.time + grace)
        elif signal.status == "running" or signal.deleted:
            step.cancel_timer(BLIND + name)
            book.store.clear_blind(name)
            self._mark_blind(name, book, is_blind=False)

    def _mark_blind(self, source: str, book: AlertBook, *, is_blind: bool) -> None:
        for key in sorted(book.store.dependencies.firing):
            alert = book.store.get(key)
            if alert is None or alert.is_blind == is_blind or not is_of_source(alert, source):
                continue
            alert.is_blind = is_blind
            if (rule := self.rules.rules.get(alert.rule)) is not None:
                book.save(alert, rule)

    def _is_blind(self, alert: Alert, book: AlertBook) -> bool:
        before = book.step.time - int(self.settings.source_grace * SECOND)
        return any(
            is_of_source(alert, source) and since <= before
            for source, since in book.store.blind.items()
        )


def has_members(signal: Signal, rule: Rule) -> TypeGuard[Resource | Sample]:
    """Whether an alert must know the resource of a signal, to end when it is deleted. An alert
    about one resource reads from that resource itself that it was deleted."""
    if isinstance(signal, Resource):
        return rule.settings.group_by is not None and not signal.deleted
    return isinstance(signal, Sample)


def widen(alert: Alert, rule: Rule, signal: Signal) -> None:
    """Note that an alert is about a signal as well.

    What spans several origins, namespaces or labels must not be visible to viewers of one of
    them, so that only what all have in common remains. So it is with every signal that counts,
    whether the condition holds after it or not: the value is made of all of them.
    """
    origin, namespace, labels = signal.origin, namespace_of(signal), scope_labels(signal)
    if alert.origin:
        origin = common_origin(alert.origin, origin)
        namespace = namespace if namespace == alert.namespace else SEVERAL_NAMESPACES
        labels = {
            name: value for name, value in labels.items() if alert.own_labels.get(name) == value
        }
    alert.origin, alert.namespace, alert.own_labels = origin, namespace, labels
    alert.labels = rule.labels(labels, alert.group)


def common_origin(one: str, other: str) -> str:
    """Return the origin that two have in common: the whole, its first parts, or our own."""
    if one == other or not other:
        return one
    parts = []
    for left, right in zip(one.split("/"), other.split("/"), strict=False):
        if left != right:
            break
        parts.append(left)
    return "/".join(parts) or ORIGIN


def is_of_source(alert: Alert, source: str) -> bool:
    """Whether an alert is about what a source observes, and not about the source itself."""
    return source in source_names(alert.origin) and (
        alert.resource is None or alert.resource[0] != SOURCE
    )
