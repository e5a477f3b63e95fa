"""`almenara bus copy` and `almenara storage check --compare`, on a real nats-server."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import aclosing, closing
from pathlib import Path

import nats
import pytest

from almenara.bus.compare import compare_databases
from almenara.bus.copy import copy_to_embedded, copy_to_shared
from almenara.bus.embedded import EmbeddedBus
from almenara.bus.snapshot_writer import SnapshotWriter
from almenara.bus.storage_errors import StorageError
from almenara.config import BusSettings, StorageSettings
from almenara.shared_log import SharedValues, ValueChange
from almenara.state_store.file import FileStateStore
from almenara.web.saved_dashboards import SavedDashboard
from almenara.web.saved_items import open_file
from support.bus import collect_records, make_event
from support.replicas import replica, replicated_almenara, shared_log
from support.servers import NatsServer

pytestmark = pytest.mark.anyio


async def test_history_moves_to_a_shared_bus_and_back(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    folder, log = tmp_path / "a", shared_log(nats_server)
    settings = StorageSettings(dir=folder)
    async with EmbeddedBus(settings) as bus:
        await bus.publish([make_event(number) for number in range(5_000)], "test")
        await bus.save("plugin", "key", b"value")
        embedded = await collect_records(bus, 0, 5_000)
    await log.prepare()
    with pytest.raises(StorageError, match="not in the shared log"):
        async with replica(nats_server, folder):
            raise AssertionError
    # The second call is that after an interruption, and changes nothing.
    for _ in range(2):
        result = await copy_to_shared(folder, log, BusSettings())
        assert "continues after message 2," in result.description
        assert not result.is_done_before
    async with (
        replica(nats_server, folder) as first,
        replica(nats_server, tmp_path / "b") as second,
    ):
        await second.publish([make_event(5), make_event(20_000)], "test")
        records = await collect_records(first, 0, 5_001)
        assert records[:5_000] == embedded
        assert records[-1].signal.id == "20000"
        assert await second.load("plugin", "key") == b"value"
    assert compare_databases(folder, tmp_path / "b") == []
    await copy_to_embedded(folder, log)
    async with EmbeddedBus(settings) as bus:
        await bus.publish([make_event(20_000), make_event(30_000)], "test")
        assert (await collect_records(bus, 0, 5_002))[:-1] == records
    with pytest.raises(StorageError, match="embedded bus already"):
        await copy_to_embedded(folder, log)


async def test_history_of_a_lost_stream_continues_on_another(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    await shared_log(nats_server).prepare()
    async with replica(nats_server, tmp_path / "a") as bus:
        await bus.publish([make_event(1), make_event(2)], "test")
    client = await nats.connect(nats_server.url)
    await client.jetstream().delete_stream("ALMENARA_BUS")
    await client.close()
    await shared_log(nats_server).prepare()
    await copy_to_shared(tmp_path / "a", shared_log(nats_server), BusSettings())
    async with (
        replica(nats_server, tmp_path / "a") as first,
        replica(nats_server, tmp_path / "b") as second,
    ):
        await first.publish([make_event(2), make_event(3)], "test")
        records = await collect_records(second, 0, 3)
        assert [record.signal.id for record in records] == ["1", "2", "3"]


async def test_tokens_move_with_the_history(nats_server: NatsServer, tmp_path: Path) -> None:
    application = replicated_almenara(nats_server, tmp_path / "a", "a")
    created = application.command("access", "create", "ci", "--role", "viewer")
    assert created.returncode == 0, created.stderr
    async with EmbeddedBus(StorageSettings(dir=tmp_path / "a" / "var")) as bus:
        await bus.publish([make_event(1)], "test")
    key = f"{SavedDashboard.PREFIX}ops.1"
    assert await FileStateStore(open_file(tmp_path / "a" / "var")).put(key, b"{}", 0)
    for count in (2, 0):
        done = application.command("bus", "copy", "--to", "shared")
        assert f"share {count} further tokens" in done.stdout, done.stderr
    keys = []
    async with shared_log(nats_server).connect() as session:
        async for change in session.state.watch():
            if change is None:
                break
            keys.append(change.key)
    assert sum(each.startswith("token.") for each in keys) == 1
    assert sorted(keys)[0] == key


async def test_copy_needs_an_unused_stream(nats_server: NatsServer, tmp_path: Path) -> None:
    log = shared_log(nats_server)
    await log.prepare()
    async with replica(nats_server, tmp_path / "a") as bus:
        await bus.publish([make_event(1)], "test")
    async with EmbeddedBus(StorageSettings(dir=tmp_path / "b")) as embedded:
        await embedded.publish([make_event(1)], "test")
    with pytest.raises(ValueError, match="has messages already"):
        await copy_to_shared(tmp_path / "b", log, BusSettings())


async def test_copy_of_what_was_moved_before_changes_nothing(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    moved, log = tmp_path / "a" / "var", shared_log(nats_server)
    application = replicated_almenara(nats_server, tmp_path / "a", "a")
    assert application.command("access", "create", "ci", "--role", "viewer").returncode == 0
    async with EmbeddedBus(StorageSettings(dir=moved)) as embedded:
        await embedded.publish([make_event(1)], "test")
    done = application.command("bus", "copy", "--to", "shared")
    assert "continues after message 1," in done.stdout, done.stderr
    assert "share 1 further tokens" in done.stdout
    async with replica(nats_server, tmp_path / "b") as bus:
        writer = SnapshotWriter(tmp_path / "b", log, BusSettings(), "b")
        for number in (2, 3):
            await bus.publish([make_event(number)], "test")
            await writer.write(bus)
    async with log.connect() as session:
        names = await session.snapshots.names()
        (token,) = [change async for change in until_known(session.state) if "token." in change.key]
        assert await session.state.delete(token.key, token.revision)
        # As `helm upgrade` does where `migration.fromClaim` is still set.
        done = application.command("bus", "copy", "--to", "shared")
        assert done.returncode == 0, done.stderr
        assert "was moved to the shared log before, which has 4 messages since" in done.stdout
        assert "further tokens" not in done.stdout
        assert await session.snapshots.names() == names
        assert [change async for change in until_known(session.state)] == []
    async with replica(nats_server, tmp_path / "c") as bus:
        records = await collect_records(bus, 0, 3)
        assert [record.signal.id for record in records] == ["1", "2", "3"]


async def until_known(values: SharedValues) -> AsyncIterator[ValueChange]:
    """Yield the values that exist."""
    async with aclosing(values.watch()) as watching:
        async for change in watching:
            if change is None:
                return
            if change.value is not None:
                yield change


async def test_backup_of_a_replica_is_not_copied_to_a_log_that_went_on(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    log = shared_log(nats_server)
    await log.prepare()
    async with replica(nats_server, tmp_path / "a") as bus:
        await bus.publish([make_event(1)], "test")
    async with replica(nats_server, tmp_path / "b") as bus:
        await bus.publish([make_event(2)], "test")
        newest = await SnapshotWriter(tmp_path / "b", log, BusSettings(), "b").write(bus)
    with pytest.raises(StorageError, match="message 1, and that goes on to message 3"):
        await copy_to_shared(tmp_path / "a", log, BusSettings())
    async with log.connect() as session:
        assert await session.snapshots.names() == {newest.name, *newest.parts}


async def test_copy_needs_the_newest_messages_of_the_log(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    log = shared_log(nats_server)
    await log.prepare()
    async with replica(nats_server, tmp_path / "a") as bus:
        await bus.publish([make_event(1)], "test")
    with closing(sqlite3.connect(tmp_path / "a" / "almenara.db", isolation_level=None)) as writing:
        writing.execute(
            "UPDATE plugin_state SET value = json_set(CAST(value AS TEXT), '$.position', 5)"
            " WHERE plugin = 'almenara/log' AND key = 'position'"
        )
    with pytest.raises(StorageError, match=r"ends at message 1, .* message 5 of it"):
        await copy_to_shared(tmp_path / "a", log, BusSettings())


async def test_copy_that_was_interrupted_starts_the_stream_again(nats_server: NatsServer) -> None:
    log = shared_log(nats_server)
    assert await log.prepare(5) == await log.prepare(7) == "created"
    async with log.connect() as session:
        assert (await session.bounds()).first == 7


async def test_copy_to_embedded_needs_the_whole_log(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    log = shared_log(nats_server)
    await log.prepare()
    async with replica(nats_server, tmp_path / "a") as first:
        await first.publish([make_event(1)], "test")
        async with replica(nats_server, tmp_path / "b"):
            pass
        await first.publish([make_event(2)], "test")
    with pytest.raises(StorageError, match="Start this replica until it is ready"):
        await copy_to_embedded(tmp_path / "b", log)


async def test_compare_reports_what_differs(nats_server: NatsServer, tmp_path: Path) -> None:
    await shared_log(nats_server).prepare()
    async with replica(nats_server, tmp_path / "a") as first:
        await first.publish([make_event(number) for number in range(9)], "test")
    with pytest.raises(FileNotFoundError):
        compare_databases(tmp_path / "a", tmp_path / "b")
    async with replica(nats_server, tmp_path / "b"):
        pass
    assert compare_databases(tmp_path / "a", tmp_path / "b") == []
    with closing(sqlite3.connect(tmp_path / "b" / "almenara.db", isolation_level=None)) as writing:
        (sequence,) = writing.execute("SELECT max(sequence) FROM events").fetchone()
        writing.execute("DELETE FROM events WHERE sequence = ?", (sequence,))
        writing.execute("DELETE FROM new_event_ids")
    differences = compare_databases(tmp_path / "a", tmp_path / "b")
    assert differences[0] == f"The signals with sequence {sequence} differ."
    assert "The ids that recognize duplicates differ." in differences
