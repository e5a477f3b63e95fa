"""The resources that each alert is about: several, where its rule has `group_by`."""

import hashlib
from collections.abc import Collection
from typing import Final, TypeVar

import msgspec

from almenara.alerting.model import Place
from almenara.hookspecs import ProcessorState

K = TypeVar("K")
V = TypeVar("V")

MEMBERS: Final = "member/"


class Member(msgspec.Struct, frozen=True):
    """A resource whose samples or states the condition of an alert has read."""

    alert: str
    place: Place


class Members:
    """Written through to the state of the evaluator, a key for each: an alert that is stored with
    every sample does not store thousands of resources each time."""

    def __init__(self, state: ProcessorState) -> None:
        self._state = state
        self._places: dict[str, set[Place]] = {}
        self._alerts: dict[Place, set[str]] = {}
        for key in state.keys(MEMBERS):
            if (member := state.get(key, Member)) is not None:
                self._index(member)

    def _index(self, member: Member) -> None:
        self._places.setdefault(member.alert, set()).add(member.place)
        self._alerts.setdefault(member.place, set()).add(member.alert)

    def of_alert(self, alert: str) -> Collection[Place]:
        """Return the resources of an alert, by its key."""
        return self._places.get(alert, ())

    def of_place(self, place: Place) -> list[str]:
        """Return the keys of the alerts that a resource belongs to."""
        return sorted(self._alerts.get(place, ()))

    def add(self, alert: str, place: Place) -> None:
        """Note that an alert is about a resource."""
        if place not in self.of_alert(alert):
            member = Member(alert, place)
            self._index(member)
            self._state.set(_key_of(member), member)

    def remove(self, alert: str, place: Place) -> None:
        """Note that an alert is not about a resource any more."""
        self._state.delete(_key_of(Member(alert, place)))
        _discard(self._places, alert, place)
        _discard(self._alerts, place, alert)

    def forget(self, alert: str) -> None:
        """Remove all resources of an alert."""
        for place in list(self.of_alert(alert)):
            self.remove(alert, place)


def _discard(index: dict[K, set[V]], key: K, value: V) -> None:
    values = index.get(key, set())
    values.discard(value)
    if not values:
        index.pop(key, None)


def _key_of(member: Member) -> str:
    place = hashlib.blake2b(msgspec.json.encode(member.place), digest_size=12).hexdigest()
    return f"{MEMBERS}{member.alert}/{place}"
