"""The bus on JetStream: replicas on a real nats-server."""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import nats
import pytest
from nats.js.api import StreamConfig

from almenara.bus.backup import copy_database
from almenara.bus.log_message import LogBatch, encode_batch
from almenara.bus.log_state import FencedError
from almenara.bus.shared import SharedBus
from almenara.bus.snapshot_writer import SnapshotWriter, is_usable, read_record
from almenara.bus.storage_errors import StorageError
from almenara.config import BusSettings, StorageSettings
from almenara.shared_log import LogBounds, LogMessage
from almenara.signals import Event, Resource, Sample
from almenara_nats.bus_log import JetStreamLog, JetStreamSession
from almenara_nats.errors import NatsUnavailableError
from support.bus import collect_records, make_event
from support.nats_source import until
from support.replicas import read_tables, replica, shared_log
from support.servers import NatsServer

pytestmark = pytest.mark.anyio


@pytest.fixture
async def bus_stream(nats_server: NatsServer) -> NatsServer:
    """A server with the stream of the bus."""
    assert await shared_log(nats_server).prepare() == "created"
    return nats_server


async def test_replicas_number_and_store_alike(bus_stream: NatsServer, tmp_path: Path) -> None:
    async with (
        replica(bus_stream, tmp_path / "a") as first,
        replica(bus_stream, tmp_path / "b") as second,
    ):
        await asyncio.gather(
            *(
                bus.publish([make_event(base + number) for number in range(50)], "test")
                for base in range(0, 1_000, 50)
                for bus in (first, second)
            )
        )
        await first.publish(
            [
                Resource(kind="pod", name="p", state={"restarts": 2**70}),
                Sample(kind="pod", name="p", metric="cpu", value=1),
            ],
            "test",
            [("processor/x", "cursor", b"7")],
        )
        await until(lambda: first.last_sequence == second.last_sequence, "the same end")
        records = await collect_records(first, 0, 1_002)
        assert await collect_records(second, 0, 1_002) == records
        assert await second.load("processor/x", "cursor") == b"7"
    assert sorted(int(record.signal.id) for record in records[:-2]) == list(range(1_000))
    assert read_tables(tmp_path / "a") == read_tables(tmp_path / "b")


async def test_new_replica_builds_the_history(bus_stream: NatsServer, tmp_path: Path) -> None:
    async with replica(bus_stream, tmp_path / "a") as first:
        await first.publish([make_event(number) for number in range(300)], "test")
        async with replica(bus_stream, tmp_path / "b") as second:
            assert second.last_sequence == first.last_sequence
            assert second.not_ready is None
    assert read_tables(tmp_path / "a") == read_tables(tmp_path / "b")


async def test_replicas_agree_at_the_limits(bus_stream: NatsServer, tmp_path: Path) -> None:
    limits = {"deduplication_window": 100, "max_resources": 50}
    async with replica(bus_stream, tmp_path / "a", **limits) as first:
        for base in range(20):
            await first.publish(
                [
                    *(make_event(base * 31 + number) for number in range(40)),
                    *(Resource(kind="pod", name=f"{base}-{number}") for number in range(7)),
                ],
                "test",
            )
    # The other replica applies everything at once, in groups of other sizes.
    async with replica(bus_stream, tmp_path / "b", **limits):
        pass
    assert read_tables(tmp_path / "a") == read_tables(tmp_path / "b")


async def test_batch_larger_than_a_message_is_complete(tmp_path: Path) -> None:
    with NatsServer(tmp_path / "nats", max_payload=4_096) as server:
        await shared_log(server).prepare()
        # Random bytes, which cannot be compressed.
        events = [make_event(number, data=os.urandom(3_000).hex()) for number in range(20)]
        async with replica(server, tmp_path / "a") as first:
            await asyncio.gather(
                first.publish(events[:10], "test"), first.publish(events[10:], "test")
            )
            records = await collect_records(first, 0, 20)
        async with replica(server, tmp_path / "b") as second:
            assert await collect_records(second, 0, 20) == records
    signals = [record.signal for record in records]
    assert {signal.id for signal in signals if isinstance(signal, Event)} == {
        str(number) for number in range(20)
    }


async def test_publisher_waits_while_nats_is_away(bus_stream: NatsServer, tmp_path: Path) -> None:
    async with replica(bus_stream, tmp_path / "a") as bus:
        await bus.publish([make_event(1)], "test")
        bus_stream.kill()
        await until(lambda: bus.write_problem is not None, "the problem")
        publishing = asyncio.create_task(bus.publish([make_event(2)], "test"))
        assert "Sources wait, and nothing is lost" in (bus.write_problem or "")
        assert bus.not_ready is None
        assert len(await collect_records(bus, 0, 1)) == 1
        assert not publishing.done()
        bus_stream.start()
        await publishing
        await until(lambda: bus.write_problem is None, "the end of the problem")
        assert len(await collect_records(bus, 0, 2)) == 2


async def test_older_token_is_ignored_by_all(bus_stream: NatsServer, tmp_path: Path) -> None:
    async with (
        replica(bus_stream, tmp_path / "a") as first,
        replica(bus_stream, tmp_path / "b") as second,
    ):
        await first.publish([make_event(1)], "source", token=5)
        await second.publish([make_event(2)], "source", token=9)
        with pytest.raises(FencedError, match="another replica runs the source"):
            await first.publish([make_event(3)], "source", [("source", "k", b"v")], token=5)
        await first.publish([make_event(4)], "other", token=1)
        await until(lambda: first.last_sequence == second.last_sequence, "the same end")
        assert await first.load("source", "k") is None
        for bus in (first, second):
            records = await collect_records(bus, 0, 3)
            assert [record.signal.id for record in records] == ["1", "2", "4"]


async def test_replica_follows_after_a_restart_of_both(
    bus_stream: NatsServer, tmp_path: Path
) -> None:
    async with replica(bus_stream, tmp_path / "a") as bus:
        await bus.publish([make_event(1)], "test")
    bus_stream.stop()
    bus_stream.start()
    async with replica(bus_stream, tmp_path / "a") as bus:
        await bus.publish([make_event(1), make_event(2)], "test")
        records = await collect_records(bus, 0, 2)
    assert [record.signal.id for record in records] == ["1", "2"]


async def test_recreated_stream_rebuilds_the_history(
    bus_stream: NatsServer, tmp_path: Path
) -> None:
    async with replica(bus_stream, tmp_path / "a") as bus:
        await bus.publish([make_event(1)], "test")
    client = await nats.connect(bus_stream.url)
    await client.jetstream().delete_stream("ALMENARA_BUS")
    await client.close()
    await shared_log(bus_stream).prepare()
    async with replica(bus_stream, tmp_path / "a") as bus:
        assert bus.last_sequence == 0
        await bus.publish([make_event(2)], "test")
        assert [record.signal.id for record in await collect_records(bus, 0, 1)] == ["2"]
    assert list((tmp_path / "a").glob("almenara.db.diverged*"))


async def test_new_replica_needs_the_start_of_the_stream(
    bus_stream: NatsServer, tmp_path: Path
) -> None:
    async with replica(bus_stream, tmp_path / "a") as bus:
        for number in range(5):
            await bus.publish([make_event(number)], "test")
    await shared_log(bus_stream, max_bytes=700).prepare()
    with pytest.raises(StorageError, match="There is no snapshot"):
        async with replica(bus_stream, tmp_path / "b", start_patience=0.1):
            raise AssertionError
    (tmp_path / "c").mkdir()
    copy_database(tmp_path / "a", tmp_path / "c" / "almenara.db")
    async with (
        replica(bus_stream, tmp_path / "a") as first,
        replica(bus_stream, tmp_path / "c") as second,
    ):
        await first.publish([make_event(9)], "test")
        assert await collect_records(second, 0, 6) == await collect_records(first, 0, 6)


class TrimmedLog(JetStreamLog):
    """A log that loses its oldest messages before they are read, as at its limits."""

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[JetStreamSession]:
        async with super().connect() as session:
            read = session.read

            async def trim_and_read(start: int) -> AsyncIterator[Sequence[LogMessage]]:
                jetstream = session.connection.jetstream()
                await jetstream.purge_stream(self.bus.stream, seq=4)
                async with aclosing(read(start)) as reading:
                    async for messages in reading:
                        yield messages

            session.read = trim_and_read  # type: ignore[method-assign]
            yield session


async def test_messages_that_are_deleted_before_they_are_read_are_not_skipped(
    bus_stream: NatsServer, tmp_path: Path
) -> None:
    async with replica(bus_stream, tmp_path / "a") as bus:
        await bus.publish([make_event(0)], "test")
    async with replica(bus_stream, tmp_path / "b") as bus:
        for number in range(1, 5):
            await bus.publish([make_event(number)], "test")
    known = shared_log(bus_stream)
    settings = StorageSettings(dir=tmp_path / "a", write_retry_interval=0.1)
    log = TrimmedLog(known.settings, known.bus)
    with pytest.raises(StorageError, match="not read message 2 yet"):
        async with SharedBus(settings, log, start_patience=0.5):
            raise AssertionError


async def test_batch_that_was_never_completed_stops_no_replica(
    bus_stream: NatsServer, tmp_path: Path
) -> None:
    batch = encode_batch(LogBatch("test", 0, changes=[("p", "k", os.urandom(300))]), bytes(16), 200)
    log = shared_log(bus_stream)
    async with replica(bus_stream, tmp_path / "a") as bus:
        await bus.publish([make_event(1)], "test")
        # Its publisher is killed after the first part.
        async with log.connect() as session:
            await session.append(batch[0], "part")
        await bus.publish([make_event(2)], "test")
        await SnapshotWriter(tmp_path / "a", log, BusSettings(), "a").write(bus)
        client = await nats.connect(bus_stream.url)
        await client.jetstream().purge_stream("ALMENARA_BUS", seq=3)
        await client.close()
    async with (
        replica(bus_stream, tmp_path / "a") as first,
        replica(bus_stream, tmp_path / "b") as second,
    ):
        assert is_usable(await read_record(second), (await bounds_of(log)))
        await first.publish([make_event(3)], "test")
        for each in (first, second):
            records = await collect_records(each, 0, 3)
            assert [record.signal.id for record in records] == ["1", "2", "3"]


async def bounds_of(log: JetStreamLog) -> LogBounds:
    async with log.connect() as session:
        return await session.bounds()


async def test_foreign_message_is_left_out(bus_stream: NatsServer, tmp_path: Path) -> None:
    async with replica(bus_stream, tmp_path / "a") as bus:
        client = await nats.connect(bus_stream.url)
        for payload in (b"", b"hello", b"ALM\x02" + bytes(40), b"ALM\x01" + bytes(40)):
            await client.jetstream().publish("almenara.bus", payload)
        await client.close()
        await bus.publish([make_event(1)], "test")
        assert [record.signal.id for record in await collect_records(bus, 0, 1)] == ["1"]


async def test_missing_stream_names_the_remedy(nats_server: NatsServer) -> None:
    with pytest.raises(NatsUnavailableError, match="almenara streams apply"):
        await shared_log(nats_server).check()


async def test_check_reports_a_different_stream(nats_server: NatsServer) -> None:
    client = await nats.connect(nats_server.url)
    config = StreamConfig(name="ALMENARA_BUS", subjects=["almenara.bus"], max_age=5)
    await client.jetstream().add_stream(config)
    await client.close()
    report = await shared_log(nats_server).check()
    problems = " ".join(report.problems)
    assert "The bucket OBJ_ALMENARA_BUS_SNAPSHOTS is missing" in problems
    assert (report.max_age, report.durability[:7]) == (5, "1 copy:")
    assert "Its max_age is 5" in problems
    assert "lost with a server" in problems
    assert "deny_delete" in problems


async def test_deletions_of_shared_values_are_stored_for_a_while_only(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("almenara_nats.bus_log.DELETION_TTL", 1.0)
    log = shared_log(nats_server)
    bucket, name = log.bus.state_bucket, f"KV_{log.bus.state_bucket}"
    client = await nats.connect(nats_server.url)
    jetstream = client.jetstream()

    async def count() -> int:
        return int((await jetstream.stream_info(name)).state.messages)

    # As an earlier version has created it.
    await jetstream.create_key_value(bucket=bucket)
    async with log.connect() as session:
        revision = await session.state.put("before", b"v", 0)
        assert revision is not None
        assert not await session.state.delete("before", revision + 1)
        assert await session.state.delete("before", revision)
        await log.prepare()
        revision = await session.state.put("after", b"v", 0)
        assert revision is not None
        assert not await session.state.delete("after", revision + 1)
        assert await session.state.delete("after", revision)
        assert await count() == 2
        async with asyncio.timeout(30):
            while await count() != 1:
                await asyncio.sleep(0.1)
        assert await session.state.put("after", b"w", 0) is not None
    await client.close()
