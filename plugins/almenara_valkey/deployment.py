"""All servers of one deployment, observed together."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from almenara.hookspecs import Context, Publish, ResourceKey, SourceReport
from almenara.sdk import HealthAggregator, Snapshots, every, monotonic, now
from almenara.sdk.servers import Address
from almenara.signals import Resource, Signal
from almenara_valkey.channels import map_channels
from almenara_valkey.commands import map_commands
from almenara_valkey.info import read_mode
from almenara_valkey.kinds import (
    DEGRADED,
    DEPLOYMENT,
    KEY,
    NO_PRIMARY,
    OK,
    SEVERITIES,
    STREAM_GROUP,
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
        self._primary_at: int | None = None
        """When a primary last answered, in microseconds."""
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
        groups, unknown = self._list_groups(observations)
        statistics = [observation.commands for observation in observations]
        commands, samples = map_commands(self.settings.name, statistics)
        subscribers = Counter[str]()
        for observation in observations:
            # A subscriber is on one server; messages reach those of all servers.
            subscribers.update(observation.channels)
        channels, channel_samples = map_channels(self.settings.name, subscribers)
        resources = [
            self._describe(observations),
            *(observation.resource for observation in observations),
            *groups,
            *commands,
            *channels,
        ]
        current = {resource.key for resource in resources}
        signals: list[Signal] = []
        for key, (reason, since) in unknown.items():
            if key not in current:
                signals += self._snapshots.mark_unknown(reason, since, [key])
        signals += self._snapshots.difference(resources, unknown)
        signals += samples
        # The subscribers of the others alone are not those of a channel.
        signals += [sample for sample in channel_samples if sample.key not in unknown]
        for observation in observations:
            signals += observation.samples
            signals += observation.events
        return signals

    def _list_groups(
        self, observations: Sequence[Observation]
    ) -> tuple[list[Resource], dict[ResourceKey, tuple[str, int | None]]]:
        """The groups and keys of the primaries that have answered, and why and since when others,
        channels and commands are unknown. Of a deployment without a primary, no group is known."""
        unknown: dict[ResourceKey, tuple[str, int | None]] = {}
        for observation in observations:
            for key, reason in observation.unread.items():
                unknown.setdefault(key, (reason, observation.known_at))
        primaries = [
            observation
            for observation in observations
            if observation.is_reachable and observation.role == PRIMARY
        ]
        if primaries:
            self._primary_at = now()
        else:
            for kind in (STREAM_GROUP, KEY):
                for key in self._snapshots.list_keys(kind):
                    unknown[key] = "no primary answers", self._primary_at
        return [each for observation in primaries for each in observation.others], unknown

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
    and the IP address that a replica names: one that answers, or else the first."""
    best: dict[str, Observation] = {}
    for observation in observations:
        run_id = observation.run_id
        if run_id and (run_id not in best or observation.is_reachable > best[run_id].is_reachable):
            best[run_id] = observation
    return [each for each in observations if best.get(each.run_id, each) is each]
