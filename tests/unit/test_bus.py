import asyncio
import os
from pathlib import Path

import pytest

from almenara.bus import BusClosedError, Record, retention
from almenara.bus.embedded import EmbeddedBus
from almenara.bus.schema import SchemaTooNewError, connect
from almenara.config import StorageSettings
from almenara.history import Filter, History
from almenara.signals import Event, Resource, Sample, now

pytestmark = pytest.mark.anyio


def event(number: int, **fields: object) -> Event:
    given = {"id": str(number), "source": "test", "type": "t", "time": now(), "data": {"n": number}}
    return Event(**{**given, **fields})  # type: ignore[arg-type]


async def collect(bus: EmbeddedBus, after: int, count: int) -> list[Record]:
    found: list[Record] = []
    async with asyncio.timeout(10):
        async for batch in bus.subscribe(after):
            found += batch
            if len(found) >= count:
                return found
    return found


async def test_what_was_published_is_there_after_a_restart(tmp_path: Path) -> None:
    settings = StorageSettings(dir=tmp_path)
    async with EmbeddedBus(settings) as bus:
        await bus.publish([event(1), event(2)], "x")
    async with EmbeddedBus(settings) as bus:
        assert bus.last_sequence == 2
        found = await collect(bus, 0, 2)
    assert [(it.sequence, it.signal.id) for it in found] == [(1, "1"), (2, "2")]  # type: ignore[union-attr]


async def test_an_event_published_twice_is_kept_once_also_across_a_restart(tmp_path: Path) -> None:
    settings = StorageSettings(dir=tmp_path)
    async with EmbeddedBus(settings) as bus:
        await bus.publish([event(1), event(1)], "x")
        await bus.publish([event(1), event(1, source="other")], "x")
        assert bus.counters.deduplicated == 2
    async with EmbeddedBus(settings) as bus:
        await bus.publish([event(1)], "x")
        assert await History(bus).count_stored() == 2


async def test_ids_are_remembered_at_least_for_the_deduplication_window(tmp_path: Path) -> None:
    settings = StorageSettings(dir=tmp_path, deduplication_window=100)
    async with EmbeddedBus(settings) as bus:
        for start in range(0, 1000, 50):
            await bus.publish([event(it) for it in range(start, start + 50)], "x")
        before = bus.counters.deduplicated
        await bus.publish([event(it) for it in range(900, 1000)], "x")
        assert bus.counters.deduplicated - before == 100
        await bus.publish([event(0)], "x")
        assert bus.last_sequence == 1001


async def test_a_subscription_replays_and_follows_without_gap_or_repeat(tmp_path: Path) -> None:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        await bus.publish([event(it) for it in range(2500)], "x")

        async def publish_more() -> None:
            for start in range(2500, 9000, 65):
                await bus.publish([event(it) for it in range(start, start + 65)], "x")

        async with asyncio.TaskGroup() as group:
            readers = [group.create_task(collect(bus, it, 9000 - it)) for it in (0, 1700, 2500)]
            group.create_task(publish_more())
        for reader, start in zip(readers, (0, 1700, 2500), strict=True):
            assert [it.sequence for it in reader.result()] == list(range(start + 1, 9001))


async def test_a_batch_that_cannot_be_written_is_refused_alone(tmp_path: Path) -> None:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        results = await asyncio.gather(
            bus.publish([event(1)], "x"),
            bus.publish([event(2), event(3, time=2**70)], "x"),
            bus.publish([event(4, data={1, 2, object()})], "x"),
            bus.publish([event(5)], "x"),
            return_exceptions=True,
        )
        assert [type(it) for it in results] == [type(None), ValueError, ValueError, type(None)]
        assert "event '3'" in str(results[1])
        assert [it.signal.id for it in await History(bus).events(Filter())] == ["5", "1"]  # type: ignore[union-attr]


async def test_resources_and_samples_keep_their_place_among_events(tmp_path: Path) -> None:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        await bus.publish(
            [
                event(1),
                Resource(kind="k", name="n"),
                Sample(kind="k", name="n", metric="m", value=1.5),
                event(2),
            ],
            "source",
        )
        tail = await collect(bus, 0, 4)
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        stored = await collect(bus, 0, 4)
    assert [type(it.signal) for it in stored] == [Event, Resource, Sample, Event]
    assert [it.sequence for it in tail] == [it.sequence for it in stored] == [1, 2, 3, 4]
    assert all(it.signal.origin == "source" for it in stored)


async def test_a_closed_bus_takes_nothing(tmp_path: Path) -> None:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        pass
    with pytest.raises(BusClosedError):
        await bus.publish([event(1)], "x")


async def test_retention_removes_the_oldest_by_size_and_the_text_index_with_them(
    tmp_path: Path,
) -> None:
    settings = StorageSettings(
        dir=tmp_path, retention_size=1_500_000, retention_interval=0.05, retention_batch=100
    )
    async with EmbeddedBus(settings) as bus:
        history = History(bus)
        for start in range(0, 5000, 250):
            await bus.publish(
                [
                    event(it, data={"word": f"w{it}", "pad": "x" * 500})
                    for it in range(start, start + 250)
                ],
                "x",
            )
        async with asyncio.timeout(20):
            while (await bus.read(retention.used_bytes)) > settings.retention_size:
                await asyncio.sleep(0.05)
        kept = await history.events(Filter(), limit=10_000)
        assert 0 < len(kept) < 5000
        assert await history.count_stored() == len(kept)
        assert [it.sequence for it in kept] == list(range(5000, 5000 - len(kept), -1))
        assert await history.count(Filter(text="w0")) == 0
        assert await history.count(Filter(text="w4999")) == 1
        assert [it.sequence for it in await collect(bus, 0, len(kept))][-1] == 5000


async def test_retention_removes_what_is_older_than_it_may_be(tmp_path: Path) -> None:
    settings = StorageSettings(dir=tmp_path, retention_age=0.5, retention_interval=0.05)
    async with EmbeddedBus(settings) as bus:
        await bus.publish([event(1), Sample(kind="k", name="n", metric="m", value=1)], "x")
        async with asyncio.timeout(10):
            while await History(bus).count_stored():
                await asyncio.sleep(0.05)
        await bus.publish([event(1)], "x")
        assert await History(bus).count_stored() == 0
        await bus.publish([event(2)], "x")
        assert await History(bus).count_stored() == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
async def test_a_full_disk_holds_publishers_back_and_recovers_by_itself(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = await asyncio.create_subprocess_exec(
        "mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk),
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    if await mount.wait():
        pytest.skip("this machine lets nobody mount a disk")
    try:
        settings = StorageSettings(dir=disk, disk_reserve=1024**2, write_retry_interval=0.05)
        async with EmbeddedBus(settings) as bus:
            acknowledged = 0

            async def publish_much() -> None:
                nonlocal acknowledged
                for number in range(12_000):
                    await bus.publish([event(number, data="x" * 500)], "x")
                    acknowledged += 1

            publishing = asyncio.create_task(publish_much())
            async with asyncio.timeout(30):
                while bus.write_problem is None:
                    await asyncio.sleep(0.01)
            assert "is full" in bus.write_problem
            held = -1
            async with asyncio.timeout(30):
                while held != acknowledged or bus.write_problem is None:
                    held = acknowledged
                    await asyncio.sleep(0.5)
            assert held < 12_000
            assert len(await History(bus).events(Filter(), limit=50)) == 50
            larger = await asyncio.create_subprocess_exec(
                "mount", "-o", "remount,size=64m", str(disk)
            )
            assert await larger.wait() == 0
            async with asyncio.timeout(60):
                await publishing
            assert bus.write_problem is None
            assert await History(bus).count_stored() == 12_000
    finally:
        await (await asyncio.create_subprocess_exec("umount", "-l", str(disk))).wait()


async def test_a_database_of_a_newer_version_is_refused_with_what_to_do(tmp_path: Path) -> None:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)):
        pass
    connection = connect(tmp_path / "almenara.db", writable=True)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(SchemaTooNewError, match="upgrade Almenara"):
        async with EmbeddedBus(StorageSettings(dir=tmp_path)):
            pass


async def test_what_plugins_save_survives_a_restart(tmp_path: Path) -> None:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        await bus.save("nats", "position", b"1")
        await bus.save("nats", "position", b"2")
        assert await bus.load("nats", "position") == b"2"
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        assert await bus.load("nats", "position") == b"2"
        assert await bus.load("other", "position") is None


async def test_a_source_can_ask_what_it_told_and_did_not_tell_as_gone(tmp_path: Path) -> None:
    settings = StorageSettings(dir=tmp_path)
    async with EmbeddedBus(settings) as bus:
        await bus.publish(
            [Resource(kind="pod", namespace="a", name=it) for it in ("x", "y", "z")], "cluster"
        )
        await bus.publish([Resource(kind="pod", namespace="a", name="o")], "another")
        await bus.publish(
            [
                Resource(kind="pod", namespace="a", name="y", deleted=True),
                Resource(kind="pod", namespace="a", name="z", deleted=True),
                Resource(kind="pod", namespace="a", name="z"),
                Resource(kind="node", name="n"),
            ],
            "cluster",
        )
    async with EmbeddedBus(settings) as bus:
        assert sorted(await bus.known_resources("cluster")) == [
            ("node", "", "n"),
            ("pod", "a", "x"),
            ("pod", "a", "z"),
        ]
        assert await bus.known_resources("cluster", "node") == [("node", "", "n")]
        assert await bus.known_resources("nobody") == []


async def test_what_was_told_is_known_after_the_observations_of_it_have_been_removed(
    tmp_path: Path,
) -> None:
    settings = StorageSettings(dir=tmp_path)
    async with EmbeddedBus(settings) as bus:
        await bus.publish([Resource(kind="pod", name="x")], "cluster")
    connection = connect(tmp_path / "almenara.db", writable=True)
    connection.execute("DELETE FROM observations")
    connection.close()
    async with EmbeddedBus(settings) as bus:
        assert await bus.known_resources("cluster") == [("pod", "", "x")]


async def test_a_database_of_an_earlier_version_is_brought_up_to_date_with_all_it_holds(
    tmp_path: Path,
) -> None:
    settings = StorageSettings(dir=tmp_path)
    async with EmbeddedBus(settings) as bus:
        await bus.publish([event(1)], "x")
    connection = connect(tmp_path / "almenara.db", writable=True)
    connection.executescript("DROP TABLE known_resources; PRAGMA user_version = 1")
    connection.close()
    async with EmbeddedBus(settings) as bus:
        await bus.publish([event(2), Resource(kind="pod", name="x")], "cluster")
        assert await History(bus).count_stored() == 2
        assert await bus.known_resources("cluster") == [("pod", "", "x")]


async def test_history_reads_what_is_stored_before_its_subscribers_were_told(
    tmp_path: Path,
) -> None:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        history = History(bus)
        publishing = asyncio.create_task(bus.publish([event(1), event(2)], "x"))
        await asyncio.sleep(0)
        while (stored := await history.count_stored()) == 0:
            pass
        assert stored == await history.last_sequence() == 2
        await publishing
        assert len(await history.events(Filter(), limit=10)) == 2
