"""Leases of two replicas on a real nats-server: who runs what, and when it moves."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path

import msgspec
import nats
import pytest
from structlog.testing import capture_logs

from almenara.bus.log_state import FencedError
from almenara.bus.shared import SharedBus
from almenara.cancellation import cancel_and_wait
from almenara.config import Settings, StorageSettings, SupervisorSettings
from almenara.leases import Publisher, shared
from almenara.leases.members import SettingsDigests
from almenara.leases.shared import FencedBus, Lease, SharedLeases
from almenara.leases.table import MEMBER, Holder, lease_key
from almenara.plugins.context import PluginContext
from almenara.shared_log import LogMessage, LogSession
from almenara.supervisor.runner import SourceRunner
from almenara_nats.bus_log import JetStreamLog, JetStreamSession
from support.bus import make_event
from support.nats_source import until
from support.replicas import replica, shared_log
from support.servers import NatsServer

pytestmark = pytest.mark.anyio

SOURCES = ("one", "two", "three", "four", "five", "six")
PATIENCE = 60.0


class Runner:
    """Runs sources that publish once, and stay."""

    def __init__(self, name: str, bus: SharedBus) -> None:
        self.leases = SharedLeases(bus, name)
        self.running: set[str] = set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.leases.run_keeper())
            for source in SOURCES:
                group.create_task(self.run_source(source))

    async def run_source(self, source: str) -> None:
        async def work(publisher: Publisher) -> None:
            self.running.add(source)
            try:
                event = make_event(1, id=f"{self.leases.replica}")
                await publisher.publish([event], f"of/{source}")
                await asyncio.Event().wait()
            finally:
                self.running.discard(source)

        await self.leases.run(source, work, lambda: None, origin=f"of/{source}")


@asynccontextmanager
async def running(server: NatsServer, folder: Path, **settings: float) -> AsyncIterator[Runner]:
    async with SharedBus(StorageSettings(dir=folder), shared_log(server, **settings)) as bus:
        runner = Runner(folder.name, bus)
        task = asyncio.create_task(runner.run())
        try:
            yield runner
        finally:
            task.cancel()
            await asyncio.wait([task])


async def test_sources_are_spread_and_move_once_a_replica_ends(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    await shared_log(nats_server).prepare()
    everything = set(SOURCES)
    async with running(nats_server, tmp_path / "a") as first:
        await until(lambda: first.running == everything, "all sources on one", PATIENCE)
        async with running(nats_server, tmp_path / "b") as second:
            await until(
                lambda: bool(second.running) and first.running | second.running == everything,
                "sources on both", PATIENCE,
            )  # fmt: skip
            source = min(second.running)
            await until(lambda: first.leases.holder(source) == "b", "the holder", PATIENCE)
        await until(lambda: first.running == everything, "all sources on one again", PATIENCE)


async def test_lost_lease_is_logged_with_its_reason(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    await shared_log(nats_server).prepare()
    with capture_logs() as logs:
        async with running(nats_server, tmp_path / "a") as first:
            await until(lambda: first.running == set(SOURCES), "all sources on one", PATIENCE)
            async with running(nats_server, tmp_path / "b") as second:
                await until(lambda: bool(second.running), "sources on both", PATIENCE)
    lost = [entry for entry in logs if entry["event"] == "a lease is lost and its work stops"]
    assert {entry["lease"] for entry in lost} <= set(SOURCES)
    assert lost[0]["reason"] == "the share of another replica; it moves there"


async def test_leases_are_acquired_again_after_an_interruption(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    await shared_log(nats_server).prepare()
    async with running(nats_server, tmp_path / "a") as runner:
        await until(lambda: runner.running == set(SOURCES), "all sources", PATIENCE)
        nats_server.freeze()
        await until(lambda: not runner.running, "the end of the leases", PATIENCE)
        nats_server.thaw()
        await until(lambda: runner.running == set(SOURCES), "all sources again", PATIENCE)


async def put_leases(session: LogSession, replicas: dict[str, str]) -> None:
    """Store the lease of each source as acquired by a replica that was killed."""
    for source, name in replicas.items():
        value = msgspec.json.encode(Holder(name, "killed"))
        assert await session.leases.put(lease_key(source), value, 0)


async def test_leases_go_on_in_a_bucket_that_was_created_again(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    log = shared_log(nats_server, lease_ttl=2)
    await log.prepare()
    client = await nats.connect(nats_server.url)
    # Revisions that the new bucket does not reach while the test lasts.
    for _ in range(2_000):
        await client.jetstream().publish(f"$KV.{log.bus.lease_bucket}.other", b"")
    async with (
        running(nats_server, tmp_path / "a", lease_ttl=2) as one,
        running(nats_server, tmp_path / "b", lease_ttl=2) as two,
    ):

        def is_shared() -> bool:
            # Each replica sees what both run.
            return all(
                {each.leases.holder(source) for each in (one, two)}
                == {"a" if source in one.running else "b"}
                for source in SOURCES
            ) and len(one.running) + len(two.running) == len(SOURCES)

        await until(is_shared, "each source on one replica", PATIENCE)
        await client.jetstream().delete_stream(f"KV_{log.bus.lease_bucket}")
        await client.close()
        await until(lambda: not is_shared(), "the loss of the leases", PATIENCE)
        await log.prepare()
        await until(is_shared, "each source on one replica again", PATIENCE)


async def test_restarted_replica_takes_the_leases_of_its_earlier_run(
    nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The leases do not expire within the test.
    monkeypatch.setattr(shared, "RESTART_SHARE", 0.01)
    log = shared_log(nats_server, lease_ttl=60)
    await log.prepare()
    async with log.connect() as session:
        await put_leases(session, dict.fromkeys(SOURCES, "a") | {"six": "b"})
    async with running(nats_server, tmp_path / "a", lease_ttl=60) as runner:
        await until(lambda: len(runner.running) == 5, "the leases", PATIENCE)
        assert runner.running == set(SOURCES) - {"six"}
        assert runner.leases.holder("six") == "b"


async def test_expired_leases_are_not_left_to_their_holder(
    nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "GRACE", 3_600.0)
    log = shared_log(nats_server, lease_ttl=2)
    await log.prepare()
    value = msgspec.json.encode(Holder("a", "killed"))
    async with log.connect() as session:
        await put_leases(session, dict.fromkeys(SOURCES, "a"))

        async def keep_membership() -> None:
            # As if it had been renewed shortly before the replica was killed.
            revision: int | None = 0
            while True:
                revision = await session.leases.put(
                    f"{MEMBER}{lease_key('a')}", value, revision or 0
                )
                await asyncio.sleep(0.1)

        membership = asyncio.create_task(keep_membership())
        async with running(nats_server, tmp_path / "b", lease_ttl=2) as runner:
            await until(lambda: runner.running == set(SOURCES), "the leases", PATIENCE)
            assert not membership.done()
        membership.cancel()
        await asyncio.wait([membership])


async def test_fenced_work_goes_on_while_leases_cannot_be_renewed(
    nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As long as it takes until other work has ended, on any machine.
    monkeypatch.setattr(shared, "OUTAGE", 3_600.0)
    await shared_log(nats_server, lease_ttl=2).prepare()
    starts = {"fenced": 0, "other": 0}
    running: set[str] = set()

    async def run(leases: SharedLeases, name: str) -> None:
        async def work(publisher: Publisher) -> None:
            starts[name] += 1
            running.add(name)
            try:
                await asyncio.Event().wait()
            finally:
                running.discard(name)

        await leases.run(name, work, lambda: None, is_fenced=name == "fenced")

    log = shared_log(nats_server, lease_ttl=2)
    async with SharedBus(StorageSettings(dir=tmp_path / "a"), log) as bus:
        leases = SharedLeases(bus, "a")
        tasks = [asyncio.create_task(leases.run_keeper())]
        tasks += [asyncio.create_task(run(leases, name)) for name in starts]
        await until(lambda: running == {"fenced", "other"}, "all work", PATIENCE)
        nats_server.freeze()
        await until(lambda: running == {"fenced"}, "the end of the other work", PATIENCE)
        nats_server.thaw()
        await until(lambda: running == {"fenced", "other"}, "all work again", PATIENCE)
        await until(lambda: leases.holder("fenced") == "a", "a renewal", PATIENCE)
        # On a slow machine, the other work may lose its lease once more.
        assert starts["fenced"] == 1
        assert starts["other"] >= 2
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def test_sources_of_a_replica_that_ends_need_no_time_limit_to_move(
    nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Neither the expiry of a lease nor the time for which a free one is left to others passes.
    monkeypatch.setattr(shared, "GRACE", 3_600.0)
    log = shared_log(nats_server, lease_ttl=60)
    await log.prepare()
    async with running(nats_server, tmp_path / "a", lease_ttl=60) as first:
        await until(lambda: first.running == set(SOURCES), "all sources on one", PATIENCE)
        async with running(nats_server, tmp_path / "b", lease_ttl=60) as second:
            await until(lambda: bool(second.running), "sources on both", PATIENCE)
        await until(lambda: first.running == set(SOURCES), "all sources on one again", PATIENCE)


class LaggingLog(JetStreamLog):
    """A log whose messages arrive only while `delivers` is set."""

    def __init__(self, log: JetStreamLog) -> None:
        super().__init__(log.settings, log.bus)
        self.delivers = asyncio.Event()
        self.delivers.set()

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[JetStreamSession]:
        async with super().connect() as session:
            read = session.read

            async def delay(start: int) -> AsyncIterator[Sequence[LogMessage]]:
                async with aclosing(read(start)) as reading:
                    async for messages in reading:
                        await self.delivers.wait()
                        yield messages

            session.read = delay  # type: ignore[method-assign]
            yield session


class Worker:
    """Runs work on one replica that notes which value it reads at its start."""

    def __init__(self, bus: SharedBus, name: str) -> None:
        self.bus, self.leases = bus, SharedLeases(bus, name)
        self.values: list[bytes | None] = []
        self.publisher: Publisher | None = None

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.leases.run_keeper())
            group.create_task(self.leases.run("work", self.work, lambda: None, origin="worker"))

    async def work(self, publisher: Publisher) -> None:
        self.values.append(await self.bus.load("worker", "key"))
        self.publisher = publisher
        await asyncio.Event().wait()

    async def save(self, value: bytes) -> None:
        assert self.publisher is not None
        await self.publisher.publish((), "worker", [("worker", "key", value)])


async def test_work_starts_with_all_that_earlier_holders_have_stored(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    log = LaggingLog(shared_log(nats_server))
    await log.prepare()
    async with (
        replica(nats_server, tmp_path / "a") as bus,
        SharedBus(StorageSettings(dir=tmp_path / "b"), log) as lagging,
        shared_log(nats_server).connect() as session,
    ):
        first, second = Worker(bus, "a"), Worker(lagging, "b")
        task = asyncio.create_task(first.run())
        await until(lambda: first.values == [None], "the first holder", PATIENCE)
        log.delivers.clear()
        await first.save(b"1")
        await cancel_and_wait(task)
        before = (await session.bounds()).last
        task = asyncio.create_task(second.run())
        while not second.values and (await session.bounds()).last == before:
            await asyncio.sleep(0.02)
        assert second.values == []
        log.delivers.set()
        await until(lambda: bool(second.values), "the second holder", PATIENCE)
        assert second.values == [b"1"]
        # The second holder has published nothing yet.
        with pytest.raises(FencedError):
            await first.save(b"2")
        assert await lagging.load("worker", "key") == b"1"
        await cancel_and_wait(task)
        assert set(await lagging.load_all("almenara/log")) == {"position", "fence/worker"}


async def test_next_holder_has_a_newer_token_in_a_bucket_that_was_created_again(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    log = shared_log(nats_server)
    await log.prepare()
    client = await nats.connect(nats_server.url)
    # Tokens that the revisions of the new bucket do not reach while the test lasts.
    for _ in range(2_000):
        await client.jetstream().publish(f"$KV.{log.bus.lease_bucket}.other", b"")
    async with replica(nats_server, tmp_path / "a") as bus:
        first, second = Worker(bus, "a"), Worker(bus, "b")
        task = asyncio.create_task(first.run())
        await until(lambda: first.values == [None], "the first holder", PATIENCE)
        await first.save(b"1")
        await cancel_and_wait(task)
        await client.jetstream().delete_stream(f"KV_{log.bus.lease_bucket}")
        await client.close()
        await log.prepare()
        task = asyncio.create_task(second.run())
        await until(lambda: second.values == [b"1"], "the second holder", PATIENCE)
        await second.save(b"2")
        assert await bus.load("worker", "key") == b"2"
        await cancel_and_wait(task)


class SavingSource:
    """Saves a value, and passes on what that raises."""

    name = "saver"

    def __init__(self, context: PluginContext, value: bytes) -> None:
        self.context, self.value = context, value
        self.outcomes: list[Exception | None] = []

    async def run(self, publish: object) -> None:
        try:
            await self.context.save("key", self.value)
        except FencedError as error:
            self.outcomes.append(error)
        else:
            self.outcomes.append(None)
        await asyncio.Event().wait()


@pytest.mark.parametrize("isolation", ["task", "thread"])
async def test_value_that_an_old_holder_saves_is_not_stored(
    nats_server: NatsServer, tmp_path: Path, isolation: str
) -> None:
    await shared_log(nats_server).prepare()
    async with replica(nats_server, tmp_path / "a") as bus:
        context = PluginContext("plugin", bus, tmp_path)

        async def save_under(token: int, value: bytes) -> Exception | None:
            source, lease = SavingSource(context, value), Lease("saver")
            lease.set(1, token, 0.0)
            settings = SupervisorSettings(isolation=isolation)  # type: ignore[arg-type]
            runner = SourceRunner(source, "plugin", settings)
            task = asyncio.create_task(runner.run(FencedBus(bus, lease)))
            await until(lambda: bool(source.outcomes), "the end of save()", PATIENCE)
            task.cancel()
            await asyncio.wait([task])
            return source.outcomes[0]

        assert await save_under(2, b"new") is None
        assert isinstance(await save_under(1, b"old"), FencedError)
        assert await context.load("key") == b"new"
        assert await save_under(2, b"newer") is None
        assert await context.load("key") == b"newer"


async def test_replicas_notice_other_settings_and_another_process_of_their_name(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    log = shared_log(nats_server, lease_ttl=2)
    await log.prepare()
    replicas = {"a": ("x", 1), "b": ("x", 1), "c": ("y", 2)}
    async with AsyncExitStack() as stack:
        leases: dict[str, SharedLeases] = {}
        for folder, (name, limit) in replicas.items():
            settings = StorageSettings(dir=tmp_path / folder, max_resources=limit)
            bus = await stack.enter_async_context(SharedBus(settings, log))
            leases[folder] = SharedLeases(bus, name, SettingsDigests(Settings(storage=settings)))
            bus.list_replica_problems = leases[folder].members.list_problems
            keeping = asyncio.create_task(leases[folder].run_keeper())
            stack.push_async_callback(cancel_and_wait, keeping)
        problems = {folder: each.members.list_problems for folder, each in leases.items()}
        await until(lambda: len(problems["c"]()) == 2, "both with other settings", PATIENCE)
        assert all("x differs from this replica in" in text for text in problems["c"]())
        for folder in ("a", "b"):
            await until(lambda f=folder: len(problems[f]()) == 2, "both problems", PATIENCE)
            texts = "\n".join(problems[folder]())
            assert "Two processes on this bus have the replica name x." in texts
            assert "The replica y differs from this replica in storage.max_resources." in texts
