"""All servers of one deployment, observed together."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from almenara.hookspecs import Context, Publish, ResourceKey, SourceReport
from almenara.sdk import HealthAggregator, Snapshots, every, mark_unknown, monotonic, now
from almenara.sdk.servers import Address
from almenara.signals import Resource, Sample, Signal
from almenara_valkey.channels import map_channels
from almenara_valkey.info import read_mode
from almenara_valkey.kinds import (
    COMMAND,
    DEGRADED,
    DEPLOYMENT,
    NO_PRIMARY,
    OK,
    SEVERITIES,
    UNREACHABLE,
)
from almenara_valkey.mapping import PRIMARY, find_transitions
from almenara_valkey.server import Observation, ServerObserver
from almenara_valkey.settings import DeploymentSettings
from almenara_valkey.topology import Member

ROUNDS: Final = 3
"""Times that newly named servers are observed at once: a sentinel names a primary, which names a
replica."""
CONCURRENCY: Final = 50
MAX_COMMANDS: Final = 50
"""The most called commands that are shown."""
COMMANDS: Final = "commands"
"""The part of the health that is about refused commands."""


class Deployment:
    """Observes one deployment at its interval."""

    def __init__(self, settings: DeploymentSettings) -> None:
        self.settings = settings
        self._seeds = {address: Member(address) for address in settings.addresses}
        self._observers: dict[Address, ServerObserver] = {
            address: ServerObserver(member, settings) for address, member in self._seeds.items()
        }
        self._named_at: dict[Address, float] = {}
        """When each server was last named by another."""
        self._snapshots = Snapshots(find_transitions)
        self._groups: dict[ResourceKey, Resource] = {}
        self._commands: dict[str, tuple[int, float]] = {}
        self._commands_at = 0.0
        self._slots = asyncio.Semaphore(CONCURRENCY)

    async def run(
        self, source: str, context: Context, publish: Publish, report: SourceReport
    ) -> None:
        """Observe until cancelled."""
        health = HealthAggregator(report)
        await self._snapshots.restore(context, source)
        try:
            async for _ in every(self.settings.every):
                observations = await self.observe_all()
                await publish(self._make_signals(observations))
                self._report_health(observations, health)
        finally:
            await self.close()

    async def close(self) -> None:
        """Close the connections to all servers."""
        for observer in self._observers.values():
            await observer.connection.close()

    async def observe_all(self) -> list[Observation]:
        """Observe every known server, and those that they name."""
        observations: dict[Address, Observation] = {}
        for _ in range(ROUNDS):
            pending = [
                observer
                for address, observer in self._observers.items()
                if address not in observations
            ]
            if not pending:
                break
            async with asyncio.TaskGroup() as group:
                tasks = [
                    (observer.member.address, group.create_task(self._observe(observer)))
                    for observer in pending
                ]
            observations.update((address, task.result()) for address, task in tasks)
            self._add_members(member for _, task in tasks for member in task.result().members)
        await self._forget()
        return _distinguish(
            [
                observation
                for address, observation in observations.items()
                if address in self._observers
            ]
        )

    async def _observe(self, observer: ServerObserver) -> Observation:
        async with self._slots:
            return await observer.observe()

    def _add_members(self, members: Iterable[Member]) -> None:
        for member in members:
            self._named_at[member.address] = monotonic()
            if member.address not in self._observers:
                self._observers[member.address] = ServerObserver(member, self.settings)

    async def _forget(self) -> None:
        """Stop observing servers that are no longer named. One that does not answer is observed for
        some time: it may come back."""
        limit = monotonic() - self.settings.forget_after
        for address in list(self._observers):
            if address not in self._seeds and self._named_at.get(address, 0.0) < limit:
                await self._observers.pop(address).connection.close()
                self._named_at.pop(address, None)

    # Signals

    def _make_signals(self, observations: Sequence[Observation]) -> list[Signal]:
        self._update_groups(observations)
        commands, samples = self._list_commands()
        subscribers = Counter[str]()
        for observation in observations:
            # A subscriber is on one server; messages reach those of all servers.
            subscribers.update(observation.channels)
        channels, channel_samples = map_channels(self.settings.name, subscribers)
        resources = [
            self._describe(observations),
            *(observation.resource for observation in observations),
            *self._groups.values(),
            *commands,
            *channels,
        ]
        signals = [*self._snapshots.difference(resources), *samples, *channel_samples]
        for observation in observations:
            signals += observation.samples
            signals += observation.events
        return signals

    def _update_groups(self, observations: Sequence[Observation]) -> None:
        """Take the groups and keys of the primaries that have answered. Of a deployment without
        one, nothing is known: all of them are unknown."""
        primaries = [
            observation
            for observation in observations
            if observation.is_reachable and observation.role == PRIMARY
        ]
        if primaries:
            self._groups = {
                resource.key: resource
                for observation in primaries
                for resource in observation.others
            }
            return
        self._groups = {
            key: mark_unknown(resource, "no primary answers", now())
            for key, resource in self._groups.items()
        }

    def _describe(self, observations: Sequence[Observation]) -> Resource:
        reachable = [observation for observation in observations if observation.is_reachable]
        primaries = sorted(
            observation.resource.name for observation in reachable if observation.role == PRIMARY
        )
        failing = [
            observation.resource
            for observation in observations
            if observation.resource.status != OK
        ]
        status, reason = OK, ""
        if not reachable:
            status = UNREACHABLE
            reason = observations[0].resource.state.get("reason", "") if observations else ""
        elif not primaries and any(read_mode(item.info) != "sentinel" for item in observations):
            status, reason = NO_PRIMARY, "no primary answers, so nothing can be written"
        elif failing:
            status = DEGRADED
            first = failing[0]
            reason = f"{first.name}: {first.state.get('reason') or first.status}"
            if len(failing) > 1:
                reason += f"; and {len(failing) - 1} more servers"
        state = {
            "mode": read_mode(reachable[0].info) if reachable else "",
            "primaries": ", ".join(primaries[:10]),
            "servers": len(observations),
            "reachable": len(reachable),
            "reason": reason,
        }
        return Resource(
            kind=DEPLOYMENT, name=self.settings.name, status=status, severity=SEVERITIES[status],
            state={key: value for key, value in state.items() if value not in (None, "")},
        )  # fmt: skip

    def _list_commands(self) -> tuple[list[Resource], list[Sample]]:
        """The most called commands of all servers together, with their rates."""
        totals: dict[str, tuple[int, float]] = {}
        for observer in self._observers.values():
            for name, (calls, duration) in observer.command_calls().items():
                before = totals.get(name, (0, 0.0))
                totals[name] = before[0] + calls, before[1] + duration
        at, before_at = monotonic(), self._commands_at
        previous, self._commands, self._commands_at = self._commands, totals, at
        names = sorted(totals, key=lambda name: -totals[name][0])[:MAX_COMMANDS]
        resources = [
            Resource(kind=COMMAND, namespace=self.settings.name, name=name) for name in names
        ]
        slowest = self._find_slowest()
        samples: list[Sample] = []
        for name in names:
            calls = totals[name][0] - previous.get(name, (0, 0.0))[0]
            duration = totals[name][1] - previous.get(name, (0, 0.0))[1]
            # Less than before: a server was restarted, or does not answer.
            if not before_at or calls < 0 or duration < 0 or name not in previous:
                continue
            values = [("calls", calls / (at - before_at), "1/s")]
            if calls:
                values.append(("duration", duration / calls / 1e6, "s"))
                if name in slowest:
                    values.append(("duration_p99", slowest[name], "s"))
            samples += [
                Sample(
                    kind=COMMAND, namespace=self.settings.name, name=name, metric=metric,
                    value=value, unit=unit,
                )
                for metric, value, unit in values
            ]  # fmt: skip
        return resources, samples

    def _find_slowest(self) -> dict[str, float]:
        """The 99th percentile of each command on the server where it is slowest: percentiles of
        several servers cannot be added up."""
        slowest: dict[str, float] = {}
        for observer in self._observers.values():
            for name, duration in observer.command_latencies().items():
                slowest[name] = max(duration, slowest.get(name, 0.0))
        return slowest

    def _report_health(self, observations: Sequence[Observation], health: HealthAggregator) -> None:
        for observation in observations:
            name = observation.resource.name
            reason = str(observation.resource.state.get("reason", ""))
            health.note(name, "" if observation.is_reachable else f"{name}: {reason}")
        problems = {observation.problem for observation in observations} - {""}
        health.note(COMMANDS, "; ".join(sorted(problems)))
        known = {observation.resource.name for observation in observations}
        for part in health.failing.keys() - known - {COMMANDS}:
            health.clear(part)


def _distinguish(observations: Sequence[Observation]) -> list[Observation]:
    """Leave out servers that are observed under another address already, such as the host of a URL
    and the IP address that a replica names."""
    seen: set[str] = set()
    distinct = []
    for observation in observations:
        run_id = observation.info.get("run_id", "")
        if run_id not in seen:
            distinct.append(observation)
        if run_id:
            seen.add(run_id)
    return distinct
