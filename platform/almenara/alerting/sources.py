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


class SourceBus(Protocol):
    """What the publication needs from the bus."""

    async def publish(
        self, batch: Sequence[Signal], origin: str, changes: Sequence[StateChange] = ()
    ) -> None: ...

    async def known_resources(
        self, source: str, kind: str = ""
    ) -> Sequence[tuple[str, str, str]]: ...


async def publish_sources(bus: SourceBus, list_states: Callable[[], Sequence[SourceState]]) -> None:
    """Publish each change of the status of a source, until cancelled."""
    known = {name for _, _, name in await bus.known_resources(PUBLISHER, SOURCE)}
    published: dict[str, tuple[str, str]] = {}
    while True:
        states = {state.name: state for state in list_states()}
        changed: list[Signal] = [
            Resource(kind=SOURCE, name=name, deleted=True, origin=name)
            for name in sorted(known - states.keys())
        ]
        for name, state in states.items():
            if state.status == "standby":
                # The replica that runs it publishes it.
                published.pop(name, None)
                continue
            reason = (state.error or "") if SEVERITIES[state.status] > Severity.INFO else ""
            if published.get(name) != (state.status, reason):
                published[name] = state.status, reason
                changed.append(make_source(state, reason))
        known = set(states)
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
