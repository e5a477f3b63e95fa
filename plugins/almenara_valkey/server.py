"""One server of a deployment: what it reports at each observation."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import msgspec

from almenara.hookspecs import ResourceKey
from almenara.sdk import mark_unknown, monotonic, now
from almenara.signals import Event, Resource, Sample
from almenara.units import MINUTE, SECOND
from almenara_valkey.channels import read_channels
from almenara_valkey.client import Connection
from almenara_valkey.command_log import CommandLogReader
from almenara_valkey.commands import CommandStatistics, measure_commands
from almenara_valkey.errors import CommandError, ServerError
from almenara_valkey.info import Info, parse_info, read_mode
from almenara_valkey.kinds import CHANNEL, COMMAND, KEY, SERVER, SEVERITIES, UNREACHABLE
from almenara_valkey.mapping import (
    PRIMARY,
    Counters,
    Thresholds,
    is_evicting,
    make_samples,
    map_server,
    read_role,
    started_at,
)
from almenara_valkey.settings import DeploymentSettings
from almenara_valkey.streams import StreamReader
from almenara_valkey.topology import CLUSTER, Member, list_members

EVICTING_FOR: Final = 30 * SECOND
"""Microseconds without an eviction after which a server counts as not evicting any more."""
START_TOLERANCE: Final = 5 * SECOND
"""Uptimes are in whole seconds, and answers take time."""
LARGEST: Final = 10
"""Sampled keys of a server that are shown."""


class Observation(msgspec.Struct):
    """What one server has reported."""

    resource: Resource
    members: Sequence[Member] = ()
    """The servers that it names."""
    info: Info = {}
    """Empty where it did not answer."""
    others: Sequence[Resource] = ()
    """Stream groups and sampled keys."""
    channels: Mapping[str, int] = {}
    """The subscribers of each channel."""
    commands: CommandStatistics = CommandStatistics()
    unread: dict[ResourceKey, str] = {}
    """Why each group, key, channel and command that the server reported last is unknown now."""
    known_at: int | None = None
    """When the server last answered, in microseconds; None where it never has."""
    samples: Sequence[Sample] = ()
    events: Sequence[Event] = ()
    problem: str = ""
    """Why a part cannot be read: a command that the user may not run, for example."""

    @property
    def is_reachable(self) -> bool:
        """Whether the server has answered."""
        return bool(self.info)

    @property
    def run_id(self) -> str:
        """The last known id of the run of the process; the same under each address of a server."""
        return str(self.resource.state.get("run_id", ""))

    @property
    def role(self) -> str:
        """The last known role."""
        return str(self.resource.state.get("role", ""))


class ServerObserver:
    """Observes one server over a connection of its own, so that none delays another."""

    def __init__(self, member: Member, settings: DeploymentSettings) -> None:
        self.member, self.settings = member, settings
        self.name = str(member.address)
        self.connection = Connection(member.address, settings, is_sentinel=member.is_sentinel)
        self.counters: Counters | None = None
        """None where it did not answer in the last round."""
        self._commands = CommandStatistics()
        self._resource: Resource | None = None
        self._last_answer = 0
        self._started = 0
        self._evicted_at = 0
        self._sampled_at = 0
        self._keys: dict[str, Resource] = {}
        self._streams = StreamReader(
            settings.name, settings.streams, discovers=settings.discover_streams
        )
        self._groups: list[Resource] = []
        self._channels: Mapping[str, int] = {}
        self._logs = CommandLogReader(settings.name, self.name, shows_key=settings.show_keys)
        self._thresholds = Thresholds(
            fragmentation=settings.fragmentation_limit,
            fragmentation_bytes=settings.fragmentation_bytes,
            blocked_clients=settings.blocked_clients_limit,
        )

    async def observe(self) -> Observation:
        """Return what the server reports now. Raises nothing for a server that does not answer."""
        problem = ""
        try:
            info = parse_info(await self.connection.call("INFO", "all"))
            if read_mode(info) == CLUSTER:
                # Whether the cluster serves all slots is not part of INFO.
                try:
                    reply = await self.connection.call("CLUSTER", "INFO")
                    info = {**info, **parse_info(reply)}
                except CommandError as error:
                    problem = str(error)
        except ServerError as error:
            return self._describe_failure(str(error))
        if "run_id" not in info:
            return self._describe_failure("the server does not answer INFO as Valkey and Redis do")
        observation = await self._describe(info)
        observation.problem = observation.problem or problem
        return observation

    async def _describe(self, info: Info) -> Observation:
        moment, at = now(), monotonic()
        if is_evicting(self.counters, info):
            self._evicted_at = moment
        started = started_at(info, moment)
        is_same = self.counters is not None and self.counters.run_id == info["run_id"]
        if not is_same or abs(started - self._started) > START_TOLERANCE:
            self._started = started
        evicts = moment - self._evicted_at < EVICTING_FOR
        resource = map_server(
            self.settings.name, self.name, info, self._started, evicts, self._thresholds
        )
        if self.settings.simulated:
            resource.state["data"] = "simulated"
        samples = list(make_samples(self.settings.name, self.name, info, self.counters, at))
        self._commands = measure_commands(info, self.counters, at)
        observation = Observation(
            resource=resource, info=info, samples=samples, commands=self._commands, known_at=moment
        )
        self._resource, self._last_answer = resource, moment
        self.counters = Counters(run_id=info["run_id"], at=at, info=info)
        try:
            problems = await self._add_details(observation, read_role(info))
        except ServerError as error:
            return self._describe_failure(str(error))
        observation.problem = "; ".join(dict.fromkeys(problems))
        return observation

    async def _add_details(self, observation: Observation, role: str) -> list[str]:
        """Add what the settings request; return why some of it cannot be read. What one command is
        refused is not a reason to do without the others. Raises `ServerError`."""
        settings, info = self.settings, observation.info
        is_loading = info.get("loading") == "1"
        is_primary = role == PRIMARY and not is_loading
        has_data = role != "sentinel"
        is_sampling_due = now() - self._sampled_at >= MINUTE
        parts: Sequence[tuple[bool, Callable[[Observation], Awaitable[None]]]] = (
            (settings.discover, self._add_members),
            (settings.slow_log and has_data, self._add_logs),
            (settings.channels and has_data, self._add_channels),
            (is_primary and bool(settings.streams or settings.discover_streams), self._add_groups),
            (is_primary and bool(settings.key_samples) and is_sampling_due, self._sample_keys),
        )
        problems = []
        for is_due, add in parts:
            try:
                if is_due:
                    await add(observation)
            except CommandError as error:
                problems.append(str(error))
        if is_primary:
            observation.others = [
                resource
                for resource in (*self._groups, *self._keys.values())
                if resource.key not in observation.unread
            ]
        elif is_loading:
            reason = str(observation.resource.state.get("reason", ""))
            observation.unread.update((key, reason) for key in self._data_keys())
        else:
            self._groups, self._keys = [], {}
        return problems

    async def _add_members(self, observation: Observation) -> None:
        name = self.settings.primary_name or ""
        observation.members = await list_members(self.connection, observation.info, name)

    async def _add_logs(self, observation: Observation) -> None:
        observation.events = await self._logs.read(self.connection, observation.info)

    async def _add_channels(self, observation: Observation) -> None:
        try:
            self._channels = await read_channels(self.connection, observation.info)
        except CommandError as error:
            observation.unread.update((key, str(error)) for key in self._channel_keys())
            raise
        observation.channels = self._channels

    def _channel_keys(self) -> list[ResourceKey]:
        return [(CHANNEL, self.settings.name, name) for name in self._channels]

    def _data_keys(self) -> list[ResourceKey]:
        """The groups and keys that the server reported last."""
        return [resource.key for resource in (*self._groups, *self._keys.values())]

    async def _add_groups(self, observation: Observation) -> None:
        groups, samples = await self._streams.read(self.connection, self.settings.stalled_after)
        refused = self._streams.refused
        unread = [group for group in self._groups if group.state["stream"] in refused]
        observation.unread.update((group.key, refused[group.state["stream"]]) for group in unread)
        self._groups = [*groups, *unread]
        observation.samples = [*observation.samples, *samples]
        if self._streams.problems:
            raise CommandError("; ".join(self._streams.problems))

    async def _sample_keys(self, _observation: Observation) -> None:
        """Read the sizes of random keys, and of the largest of before; keep the largest."""
        self._sampled_at = now()
        call = self.connection.call
        names = dict.fromkeys(self._keys)
        for _ in range(self.settings.key_samples):
            name = await call("RANDOMKEY")
            if not isinstance(name, str):
                break
            names[name] = None
        sizes: dict[str, int] = {}
        for name in names:
            # Of an aggregate, five elements are looked at, so that a huge one takes no longer.
            size = await call("MEMORY", "USAGE", name, "SAMPLES", 5)
            if isinstance(size, int):
                sizes[name] = size
        largest = sorted(sizes, key=lambda name: -sizes[name])[:LARGEST]
        self._keys = {
            name: Resource(
                kind=KEY, namespace=self.settings.name, name=name[:500],
                state={"bytes": sizes[name], "server": self.name},
            )
            for name in largest
        }  # fmt: skip

    def _describe_failure(self, reason: str) -> Observation:
        """The last known state, as that of a server that does not answer."""
        self.counters = None
        before = self._resource or Resource(
            kind=SERVER, namespace=self.settings.name, name=self.name
        )
        resource = mark_unknown(
            before, reason, self._last_answer or now(), status=UNREACHABLE,
            severity=SEVERITIES[UNREACHABLE],
        )  # fmt: skip
        known_at = self._last_answer or None
        self._last_answer = self._last_answer or now()
        commands = [(COMMAND, self.settings.name, name) for name in self._commands.totals]
        unread = dict.fromkeys([*self._data_keys(), *self._channel_keys(), *commands], reason)
        return Observation(resource=resource, unread=unread, known_at=known_at)
