"""Which server has which fault at the moment, and since when."""

import time
from collections.abc import Iterable
from typing import Literal

State = Literal["up", "down", "ambiguous"]


class States:
    """The state of each server."""

    def __init__(self, names: Iterable[str]) -> None:
        self._states: dict[str, tuple[State, str, float]] = {
            name: ("up", "", time.monotonic()) for name in names
        }

    def begin(self, name: str, fault: str, *, is_ambiguous: bool) -> None:
        """Note that a fault begins."""
        self._states[name] = ("ambiguous" if is_ambiguous else "down", fault, time.monotonic())

    def end(self, name: str) -> None:
        """Note that a server is healthy again."""
        self._states[name] = ("up", "", time.monotonic())

    def state(self, name: str) -> State:
        """The state of a server, or with `any` the worst of those whose sources degrade."""
        if name != "any":
            return self._states[name][0]
        states = {self._states[each][0] for each in ("nats", "kubernetes", "ray")}
        return "down" if "down" in states else "ambiguous" if "ambiguous" in states else "up"

    def fault(self, name: str) -> str:
        """The fault of a server."""
        if name == "any":
            return ", ".join(f"{each} {self.fault(each)}" for each in self._states)
        return self._states[name][1]

    def seconds_up(self, name: str) -> float:
        """For how long a server has been healthy; 0 while it is not."""
        state, _, since = self._states[name]
        return time.monotonic() - since if state == "up" else 0.0

    def failing(self) -> set[str]:
        """The servers with a fault of which the truth is not known."""
        return {name for name, (state, _, _) in self._states.items() if state != "up"}
