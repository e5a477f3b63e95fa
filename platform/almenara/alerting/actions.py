"""What commands do: acknowledge, silence, and the start of an evaluation."""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from almenara.alerting import ORIGIN, SILENCE
from almenara.alerting.book import AlertBook
from almenara.alerting.commands import (
    ACKNOWLEDGE,
    ASSIGN,
    SILENCE_CREATED,
    SILENCE_ENDED,
    STARTED,
    UNACKNOWLEDGE,
    Acknowledgement,
    Assignment,
    Silence,
    SilenceEnd,
)
from almenara.signals import Event, Resource


def obey(command: Event, book: AlertBook) -> None:
    """Do what a command says. Raises `ValueError` where its data is wrong."""
    if command.type in ACTIONS:
        kind, action = ACTIONS[command.type]
        action(msgspec.convert(command.data, kind), book)


def _start(data: dict[str, Any], book: AlertBook) -> None:
    book.compare_with_rules()


def _acknowledge(data: Acknowledgement, book: AlertBook) -> None:
    alert = book.store.get(data.alert)
    if alert is not None and alert.phase == "firing":
        alert.acknowledged_by, alert.comment = data.by, data.comment
        book.save(alert, book.rules.rules[alert.rule])


def _unacknowledge(data: Acknowledgement, book: AlertBook) -> None:
    alert = book.store.get(data.alert)
    if alert is not None and alert.acknowledged_by:
        alert.acknowledged_by = alert.comment = ""
        book.save(alert, book.rules.rules[alert.rule])


def _assign(data: Assignment, book: AlertBook) -> None:
    alert = book.store.get(data.alert)
    if alert is not None and alert.phase == "firing" and alert.assignee != data.to:
        alert.assignee = data.to
        book.save_assignment(alert, book.rules.rules[alert.rule], data.by)


def _silence(silence: Silence, book: AlertBook) -> None:
    book.store.add_silence(silence, book.step)
    book.derived.append(silence.resource(book.step.time))
    book.refresh_firing()


def _unsilence(data: SilenceEnd, book: AlertBook) -> None:
    if data.id in book.store.silences.by_id:
        _remove_silence(data.id, book)


def turn_silence(identity: str, book: AlertBook) -> None:
    """Start, pause or end a silence whose time has come."""
    silence = book.store.silences.by_id.get(identity)
    if silence is None:
        return
    if book.step.time >= silence.ends:
        _remove_silence(identity, book)
        return
    book.store.turn_silence(silence, book.step)
    book.derived.append(silence.resource(book.step.time))
    book.refresh_firing()


def _remove_silence(identity: str, book: AlertBook) -> None:
    book.store.remove_silence(identity, book.step)
    book.derived.append(
        Resource(kind=SILENCE, name=identity, deleted=True, time=book.step.time, origin=ORIGIN)
    )
    book.refresh_firing()


ACTIONS: Final[dict[str, tuple[Any, Callable[[Any, AlertBook], None]]]] = {
    STARTED: (dict[str, Any], _start),
    ACKNOWLEDGE: (Acknowledgement, _acknowledge),
    UNACKNOWLEDGE: (Acknowledgement, _unacknowledge),
    ASSIGN: (Assignment, _assign),
    SILENCE_CREATED: (Silence, _silence),
    SILENCE_ENDED: (SilenceEnd, _unsilence),
}
"""By type of the command: the type of its data, and what it does."""
