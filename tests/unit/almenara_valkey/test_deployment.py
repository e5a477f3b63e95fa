"""Several servers observed together: what is known of some when others do not answer."""

from collections.abc import Iterator
from typing import Any

import pytest

from almenara.clock import CLOCK
from almenara.sdk.servers import Address
from almenara.signals import Resource, Sample, Signal
from almenara.testing import ManualClock
from almenara_valkey import server
from almenara_valkey.deployment import Deployment
from almenara_valkey.errors import CommandError, MissingKeyError, ServerError
from almenara_valkey.settings import DeploymentSettings

pytestmark = pytest.mark.anyio


class Server:
    """A primary, by what it replies."""

    def __init__(self, run_id: str, **calls: int) -> None:
        self.run_id, self.calls = run_id, calls
        self.answers = True
        self.more: dict[str, str] = {}
        """Other fields of INFO."""
        self.groups: dict[str, str] = {}
        """The consumer group of each stream."""
        self.channels: dict[str, int] = {}
        self.refused = ""
        """The command that is answered with an error."""

    def info(self) -> str:
        fields = {"run_id": self.run_id, "role": "master", "pubsub_channels": len(self.channels)}
        statistics = {
            f"cmdstat_{name}": f"calls={calls},usec={calls * 10}"
            for name, calls in self.calls.items()
        }
        pairs = {**fields, **statistics, **self.more}.items()
        return "\r\n".join(f"{name}:{value}" for name, value in pairs)

    def reply(self, *command: Any) -> Any:
        if command[0] == self.refused:
            raise CommandError(f"{command[0]}: BUSY running a script")
        if command[0] == "INFO":
            return self.info()
        if command[0] == "SCAN":
            return ["0", list(self.groups)]
        if command[0] == "XLEN":
            return 5
        if command[0] == "XINFO":
            if command[2] not in self.groups:
                raise MissingKeyError("the key does not exist")
            group = ["name", self.groups[command[2]], "pending", 1, "last-delivered-id", "1-0"]
            return [group]
        if command[:2] == ("PUBSUB", "CHANNELS"):
            return list(self.channels)
        if command[:2] == ("PUBSUB", "NUMSUB"):
            return [each for pair in self.channels.items() for each in pair]
        return []


SERVERS: dict[str, Server] = {}
"""The servers by host; two hosts may lead to the same one."""


class FakeConnection:
    def __init__(self, address: Address, *_: Any, **__: Any) -> None:
        self.address = address

    async def call(self, *command: Any) -> Any:
        server = SERVERS[self.address.host]
        if not server.answers:
            raise ServerError("no response within 2 s")
        return server.reply(*command)

    async def close(self) -> None: ...


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[ManualClock]:
    monkeypatch.setattr(server, "Connection", FakeConnection)
    yield ManualClock()
    SERVERS.clear()


class Observer:
    """A deployment that is observed every 10 seconds."""

    def __init__(self, clock: ManualClock, *hosts: str) -> None:
        # In the task of the test.
        CLOCK.set(clock)
        urls = [f"redis://{host}" for host in hosts]
        self.clock, self.deployment = clock, Deployment(DeploymentSettings(name="lab", urls=urls))
        self.resources: dict[str, Resource] = {}

    async def observe(self) -> list[Signal]:
        self.clock.shift(10.0)
        signals = self.deployment._make_signals(await self.deployment.observe_all())
        for signal in signals:
            if isinstance(signal, Resource):
                self.resources[signal.name] = signal
                if signal.deleted:
                    del self.resources[signal.name]
        return signals

    async def rates(self) -> dict[str, float]:
        return {
            signal.name: signal.value
            for signal in await self.observe()
            if isinstance(signal, Sample) and signal.metric == "calls"
        }

    def statuses(self, kind: str) -> dict[str, str]:
        return {
            name: resource.status
            for name, resource in self.resources.items()
            if resource.kind == kind
        }


async def test_rates_are_those_of_servers_in_both_rounds(clock: ManualClock) -> None:
    one, two = Server("one", get=1_000), Server("two", get=4_000_000_000)
    SERVERS.update(one=one, two=two)
    observer = Observer(clock, "one", "two")

    async def next_rates(first: int, second: int) -> dict[str, float]:
        one.calls["get"] += first
        two.calls["get"] += second
        return await observer.rates()

    assert await observer.rates() == {}
    assert await next_rates(1_000, 1_000) == {"get": 200.0}
    two.answers = False
    two.calls["del"] = 1
    assert await next_rates(1_000, 1_000) == {"get": 100.0}
    one.answers = False
    assert await next_rates(0, 0) == {}
    assert observer.statuses("valkey.command") == {"get": "unknown"}
    one.answers = True
    assert await next_rates(0, 0) == {}
    assert observer.statuses("valkey.command") == {"get": ""}
    del two.calls["del"]
    two.answers = True
    assert await next_rates(1_000, 1_000) == {"get": 100.0}
    assert await next_rates(1_000, 1_000) == {"get": 200.0}
    # Its statistics are reset, and then it is started again.
    two.calls["get"] = 5
    assert await next_rates(1_000, 0) == {"get": 100.0}
    assert await next_rates(1_000, 1_000) == {"get": 200.0}
    two.run_id, two.calls = "three", {"get": 1_000_000}
    assert await next_rates(1_000, 0) == {"get": 100.0}
    # A command that is called for the first time.
    two.calls["set"] = 50
    assert await next_rates(1_000, 1_000) == {"get": 200.0, "set": 5.0}


async def test_rate_of_a_discovered_server_begins_with_its_second_round(
    clock: ManualClock,
) -> None:
    one, two = Server("one", get=1_000), Server("two", get=4_000_000_000)
    SERVERS.update({"one": one, "10.0.0.2": two})
    observer = Observer(clock, "one")
    await observer.observe()
    one.more["slave0"] = "ip=10.0.0.2,port=6379,state=online,offset=0"
    assert await observer.rates() == {"get": 0.0}
    two.calls["get"] += 1_000
    assert await observer.rates() == {"get": 100.0}


async def test_server_under_two_addresses_is_one_whether_it_answers_or_not(
    clock: ManualClock,
) -> None:
    primary, replica = Server("primary", get=100), Server("replica")
    SERVERS.update({"cache-0": primary, "10.0.0.5": primary, "10.0.0.6": replica})
    primary.more["slave0"] = "ip=10.0.0.6,port=6379,state=online,offset=0"
    replica.more = {"role": "slave", "master_host": "10.0.0.5", "master_port": "6379"}
    observer = Observer(clock, "cache-0")
    await observer.observe()
    expected = {"cache-0:6379": "ok", "10.0.0.6:6379": "ok"}
    assert observer.statuses("valkey.server") == expected
    primary.calls["get"] += 100
    assert await observer.rates() == {"get": 10.0}
    primary.answers = False
    await observer.observe()
    assert observer.statuses("valkey.server") == {**expected, "cache-0:6379": "unreachable"}
    assert observer.resources["lab"].state["servers"] == 2
    primary.answers = True
    await observer.observe()
    assert observer.statuses("valkey.server") == expected
    # One of its addresses leads to it.
    SERVERS["cache-0"] = Server("")
    SERVERS["cache-0"].answers = False
    await observer.observe()
    assert observer.statuses("valkey.server") == {"10.0.0.5:6379": "ok", "10.0.0.6:6379": "ok"}


@pytest.mark.parametrize("fault", ["silent", "loading"])
async def test_groups_and_channels_of_a_server_without_answer_are_unknown(
    clock: ManualClock, fault: str
) -> None:
    one, two = Server("one"), Server("two")
    SERVERS.update(one=one, two=two)
    one.groups, two.groups = {"orders": "workers"}, {"payments": "workers"}
    one.channels, two.channels = {"news": 1}, {"news": 2, "jobs": 3}
    observer = Observer(clock, "one", "two")
    await observer.observe()
    known = {"orders/workers": "ok", "payments/workers": "ok"}
    assert observer.statuses("valkey.stream_group") == known
    if fault == "loading":
        two.more["loading"] = "1"
    else:
        two.answers = False
    signals = await observer.observe()
    assert observer.statuses("valkey.stream_group") == {**known, "payments/workers": "unknown"}
    subscribers = {
        signal.name: signal.value
        for signal in signals
        if isinstance(signal, Sample) and signal.metric == "subscribers"
    }
    if fault == "silent":
        assert observer.statuses("valkey.channel") == {"news": "", "jobs": "unknown"}
        assert subscribers == {}
    assert await observer.observe()
    two.answers, two.more, two.groups = True, {}, {}
    await observer.observe()
    assert observer.statuses("valkey.stream_group") == {"orders/workers": "ok"}


@pytest.mark.parametrize("command", ["XINFO", "XLEN", "SCAN"])
async def test_groups_of_a_stream_that_cannot_be_read_are_unknown(
    clock: ManualClock, command: str
) -> None:
    SERVERS["one"] = server = Server("one")
    server.groups = {"orders": "workers"}
    observer = Observer(clock, "one")
    await observer.observe()
    server.refused = command
    await observer.observe()
    # Streams are known already where only others cannot be searched for.
    status = "ok" if command == "SCAN" else "unknown"
    assert observer.statuses("valkey.stream_group") == {"orders/workers": status}
    (observation,) = await observer.deployment.observe_all()
    assert observation.problem == f"{command}: BUSY running a script"
    server.refused = ""
    await observer.observe()
    assert observer.statuses("valkey.stream_group") == {"orders/workers": "ok"}
    server.groups = {}
    await observer.observe()
    assert observer.statuses("valkey.stream_group") == {}
