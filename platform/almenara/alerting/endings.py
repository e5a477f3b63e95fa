"""Ends conditions about which no further signal can come: of deleted resources and sources."""

from almenara.alerting import machine
from almenara.alerting.book import AlertBook
from almenara.alerting.conditions import Absence, Verdict
from almenara.alerting.model import Alert
from almenara.alerting.overlays import place_of, source_names
from almenara.alerting.rules import Rule
from almenara.signals import Resource


def end_resource(resource: Resource, book: AlertBook) -> None:
    """End the conditions about a resource that was deleted.

    An alert of a rule with `group_by` may be about other resources as well: about samples, it ends
    with the last of them. The state of one resource is what the condition has read last; that it
    was deleted can be of another group, as of a label that it had.
    """
    members, place = book.store.members, (resource.origin, *resource.key)
    for key in members.of_place(place):
        members.remove(key, place)
        alert = book.store.get(key)
        rule = book.rules.rules.get(alert.rule) if alert is not None else None
        if alert is None or rule is None:
            continue
        is_last_state = not alert.metric and place_of(alert) == place
        if is_last_state or not members.of_alert(key):
            _end(alert, rule, book)


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
    alert.window = []
    ended = Verdict(holds=False, value=alert.value, threshold=alert.threshold)
    machine.observe(alert, ended, rule.settings, book.rules.settings.flapping, book.step.time)
    book.save(alert, rule)
    if alert.phase == "inactive":
        book.store.forget(alert, book.step)
