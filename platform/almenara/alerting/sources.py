"""The sources as resources on the bus, so that rules can read their status."""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from almenara.alerting import SOURCE
from almenara.bus import StateChange
from almenara.clock import sleep
from almenara.signals import Resource, Severity, Signal
from almenara.supervisor import SourceState

INTERVAL: Final = 1.0
PUBLISHER: Final = "almenara"
SEVERITIES: Final = {
    "starting": Severity.INFO,
    "running": Severity.INFO,
    "degraded": Severity.WARN,
    "stopped": Severity.WARN,
    "standby": Severity.INFO,
    "blocked": Severity.ERROR,
    "backing_off": Severity.ERROR,
}


STOPPED: Final = ("stopped", "a plugin has failed; the Sources page has its error")
"""Status and reason of a source that is missing while a plugin has failed."""


class SourceBus(Protocol):
    """What the publication needs from the bus."""

    async def publish(
        self, batch: Sequence[Signal], origin: str, changes: Sequence[StateChange] = ()
    ) -> None: ...

    async def known_resources(
        self, source: str, kind: str = ""
    ) -> Sequence[tuple[str, str, str]]: ...


async def publish_sources(
    bus: SourceBus,
    list_states: Callable[[], Sequence[SourceState]],
    has_failed_plugins: Callable[[], bool] = lambda: False,
) -> None:
    """Publish each change of the status of a source, until cancelled.

    While a plugin has failed, what is missing is stopped rather than removed: it may be its own.
    """
    known = {name for _, _, name in await bus.known_resources(PUBLISHER, SOURCE)}
    published: dict[str, tuple[str, str]] = {}
    while True:
        states = {state.name: state for state in list_states()}
        missing = sorted(known - states.keys())
        is_failure = bool(missing) and has_failed_plugins()
        changed: list[Signal] = []
        for name in missing:
            if not is_failure:
                changed.append(Resource(kind=SOURCE, name=name, deleted=True, origin=name))
                published.pop(name, None)
            elif published.get(name) != STOPPED:
                published[name] = STOPPED
                changed.append(make_stopped(name))
        for name, state in states.items():
            if state.is_remote or state.status == "standby":
                # The replica that runs it publishes it.
                published.pop(name, None)
                continue
            reason = (state.error or "") if SEVERITIES[state.status] > Severity.INFO else ""
            if published.get(name) != (state.status, reason):
                published[name] = state.status, reason
                changed.append(make_source(state, reason))
        known = {*states, *missing} if is_failure else set(states)
        if changed:
            await bus.publish(changed, PUBLISHER)
        await sleep(INTERVAL)


def make_source(state: SourceState, reason: str) -> Resource:
    """Return the resource of a source. Its origin is the source, which decides who can see it."""
    return Resource(
        kind=SOURCE,
        name=state.name,
        status=state.status,
        severity=SEVERITIES[state.status],
        state={"plugin": state.plugin, "since": state.since, "reason": reason},
        origin=state.name,
    )


def make_stopped(name: str) -> Resource:
    """Return the resource of a source that is missing while a plugin has failed."""
    status, reason = STOPPED
    return Resource(
        kind=SOURCE, name=name, status=status, severity=SEVERITIES[status],
        state={"reason": reason}, origin=name,
    )  # fmt: skip
