"""Ends conditions about which no further signal can come: of deleted resources and sources."""

from almenara.alerting import machine
from almenara.alerting.book import AlertBook
from almenara.alerting.conditions import Absence, Verdict
from almenara.alerting.model import Alert, Place
from almenara.alerting.overlays import source_names
from almenara.alerting.rules import Rule
from almenara.signals import Resource


def end_resource(resource: Resource, book: AlertBook) -> None:
    """End the conditions about a resource that was deleted.

    An alert of a rule with `group_by` may be about other resources as well, and ends unless its
    condition holds for them. The deletion itself may be of another group, as of a label that the
    resource had.
    """
    place = (resource.origin, *resource.key)
    for key in book.store.members.of_place(place):
        discard_member(key, place, book)


def leave_other_groups(resource: Resource, rule: Rule, key: str, book: AlertBook) -> None:
    """Remove a resource from the alerts of a rule whose groups it was in before; `key` is that of
    its present one."""
    place = (resource.origin, *resource.key)
    for other in book.store.members.of_place(place):
        if other != key and other.startswith(f"{rule.name}/"):
            discard_member(other, place, book)


def discard_member(key: str, place: Place, book: AlertBook) -> None:
    """Remove a resource from an alert, which ends with the last of its resources."""
    members, time = book.store.members, book.step.time
    members.remove(key, place)
    alert = book.store.get(key)
    rule = book.rules.rules.get(alert.rule) if alert is not None else None
    if alert is None or rule is None:
        return
    if not members.of_alert(key):
        _end(alert, rule, book)
    else:
        _apply(alert, rule.condition.discard(alert, place, time), rule, book)


def end_source(name: str, book: AlertBook) -> None:
    """End the conditions about what a source observed that is not in the configuration any more.

    The absence of its events is what a rule about absence waits for.
    """
    names = book.store.sources | {name}
    for key in sorted(book.store.alerts):
        alert = book.store.get(key)
        rule = book.rules.rules.get(alert.rule) if alert is not None else None
        if alert is None or rule is None or isinstance(rule.condition, Absence):
            continue
        # Of `ray` and `ray/prod`, the longer name is the source of what begins with it.
        if next((each for each in source_names(alert.origin) if each in names), "") == name:
            _end(alert, rule, book)


def _end(alert: Alert, rule: Rule, book: AlertBook) -> None:
    alert.window, alert.series, alert.holding = [], {}, {}
    ended = Verdict(holds=False, value=alert.value, threshold=alert.threshold)
    _apply(alert, ended, rule, book)


def _apply(alert: Alert, verdict: Verdict, rule: Rule, book: AlertBook) -> None:
    flapping, time = book.rules.settings.flapping, book.step.time
    machine.observe(alert, verdict, rule.settings, flapping, time)
    book.save(alert, rule)
    if alert.phase == "inactive" and not (rule.condition.has_memory and alert.deadlines):
        book.store.forget(alert, book.step)
