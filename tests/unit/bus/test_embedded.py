import asyncio
import os
from pathlib import Path

import pytest

from almenara.bus import BusClosedError
from almenara.bus.embedded import EmbeddedBus
from almenara.bus.schema import connect
from almenara.bus.validation import InvalidSignalError
from almenara.config import StorageSettings
from almenara.history import Filter, History
from almenara.signals import Event, Resource, Sample
from support.bus import collect_records, make_event

pytestmark = pytest.mark.anyio


async def test_bus_replays_published_signals_after_restart(tmp_path: Path) -> None:
    settings = StorageSettings(dir=tmp_path)
    async with EmbeddedBus(settings) as bus:
        await bus.publish([make_event(1), make_event(2)], "x")
    async with EmbeddedBus(settings) as bus:
        assert bus.last_sequence == 2
        records = await collect_records(bus, 0, 2)
    assert [(each.sequence, each.signal.id) for each in records] == [(1, "1"), (2, "2")]  # type: ignore[union-attr]


async def test_bus_stores_repeated_event_once_across_restarts(tmp_path: Path) -> None:
    settings = StorageSettings(dir=tmp_path)
    async with EmbeddedBus(settings) as bus:
        await bus.publish([make_event(1), make_event(1)], "x")
        await bus.publish([make_event(1), make_event(1, source="other")], "x")
        assert bus.counters.deduplicated == 2
    async with EmbeddedBus(settings) as bus:
        await bus.publish([make_event(1)], "x")
        assert await History(bus).count_stored() == 2


async def test_bus_remembers_ids_for_deduplication_window(tmp_path: Path) -> None:
    settings = StorageSettings(dir=tmp_path, deduplication_window=100)
    async with EmbeddedBus(settings) as bus:
        for start in range(0, 1000, 50):
            await bus.publish([make_event(each) for each in range(start, start + 50)], "x")
        before = bus.counters.deduplicated
        await bus.publish([make_event(each) for each in range(900, 1000)], "x")
        assert bus.counters.deduplicated - before == 100
        await bus.publish([make_event(0)], "x")
        assert bus.last_sequence == 1001


async def test_subscribe_replays_and_follows_without_gap_or_repeat(tmp_path: Path) -> None:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        await bus.publish([make_event(each) for each in range(2500)], "x")

        async def publish_more() -> None:
            for start in range(2500, 9000, 65):
                await bus.publish([make_event(each) for each in range(start, start + 65)], "x")

        async with asyncio.TaskGroup() as group:
            readers = [
                group.create_task(collect_records(bus, each, 9000 - each))
                for each in (0, 1700, 2500)
            ]
            group.create_task(publish_more())
        for reader, start in zip(readers, (0, 1700, 2500), strict=True):
            assert [each.sequence for each in reader.result()] == list(range(start + 1, 9001))


async def test_publish_refuses_only_the_unwritable_batch(tmp_path: Path) -> None:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        results = await asyncio.gather(
            bus.publish([make_event(1)], "x"),
            bus.publish([make_event(2), make_event(3, time=2**70)], "x"),
            bus.publish([make_event(4, data={1, 2, object()})], "x"),
            bus.publish([make_event(5)], "x"),
            return_exceptions=True,
        )
        refused = InvalidSignalError
        assert [type(each) for each in results] == [type(None), refused, refused, type(None)]
        assert issubclass(refused, ValueError)
        assert "batch[1]: Event '3': time" in str(results[1])
        assert [each.signal.id for each in await History(bus).events(Filter())] == ["5", "1"]  # type: ignore[union-attr]


async def test_bus_orders_resources_and_samples_among_events(tmp_path: Path) -> None:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        await bus.publish(
            [
                make_event(1),
                Resource(kind="k", name="n"),
                Sample(kind="k", name="n", metric="m", value=1.5),
                make_event(2),
            ],
            "source",
        )
        tail = await collect_records(bus, 0, 4)
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        stored = await collect_records(bus, 0, 4)
    assert [type(each.signal) for each in stored] == [Event, Resource, Sample, Event]
    assert [each.sequence for each in tail] == [each.sequence for each in stored] == [1, 2, 3, 4]
    assert all(each.signal.origin == "source" for each in stored)


async def test_publish_raises_when_bus_is_closed(tmp_path: Path) -> None:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        pass
    with pytest.raises(BusClosedError):
        await bus.publish([make_event(1)], "x")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
async def test_bus_blocks_publishers_on_full_disk_and_recovers(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = await asyncio.create_subprocess_exec(
        "mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk),
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    if await mount.wait():
        pytest.skip("this machine does not allow mounting a disk")
    try:
        settings = StorageSettings(dir=disk, disk_reserve=1024**2, write_retry_interval=0.05)
        async with EmbeddedBus(settings) as bus:
            acknowledged = 0

            async def publish_much() -> None:
                nonlocal acknowledged
                for start in range(0, 12_000, 20):
                    numbers = range(start, start + 20)
                    await bus.publish(
                        [make_event(number, data="x" * 500) for number in numbers], "x"
                    )
                    acknowledged += 20

            publishing = asyncio.create_task(publish_much())
            async with asyncio.timeout(60):
                while bus.write_problem is None:
                    await asyncio.sleep(0.01)
            assert "is full" in bus.write_problem
            blocked_at = -1
            async with asyncio.timeout(60):
                while blocked_at != acknowledged or bus.write_problem is None:
                    blocked_at = acknowledged
                    await asyncio.sleep(0.5)
            assert blocked_at < 12_000
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


async def test_save_survives_restart(tmp_path: Path) -> None:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        await bus.save("nats", "position", b"1")
        await bus.save("nats", "position", b"2")
        assert await bus.load("nats", "position") == b"2"
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        assert await bus.load("nats", "position") == b"2"
        assert await bus.load("other", "position") is None


async def test_known_resources_lists_published_and_not_deleted(tmp_path: Path) -> None:
    settings = StorageSettings(dir=tmp_path)
    async with EmbeddedBus(settings) as bus:
        await bus.publish(
            [Resource(kind="pod", namespace="a", name=each) for each in ("x", "y", "z")], "cluster"
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
        assert await bus.known_resources("unknown") == []


async def test_known_resources_outlive_their_observations(
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


async def test_history_reads_events_before_subscribers_receive_them(
    tmp_path: Path,
) -> None:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        history = History(bus)
        publishing = asyncio.create_task(bus.publish([make_event(1), make_event(2)], "x"))
        await asyncio.sleep(0)
        while (stored := await history.count_stored()) == 0:
            pass
        assert stored == await history.last_sequence() == 2
        await publishing
        assert len(await history.events(Filter(), limit=10)) == 2


async def test_bus_reports_failure_when_the_writer_thread_ends(tmp_path: Path) -> None:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        await bus.publish([make_event(1)], "x")
        assert bus.failure is None

        def end(until: float) -> None:
            raise SystemExit("the thread is ended by this test")

        bus._writer._next_group = end  # type: ignore[assignment, method-assign]
        async with asyncio.timeout(10):
            with pytest.raises(BusClosedError, match="has ended"):
                while True:
                    await bus.publish([make_event(2)], "x")
        assert bus.failure is not None
        assert "Restart Almenara" in bus.failure
        with pytest.raises(BusClosedError, match="has ended"):
            await bus.publish([make_event(3)], "x")
        assert [each.signal.id for each in await History(bus).events(Filter())][-1] == "1"  # type: ignore[union-attr]
