"""`almenara bus copy` and `almenara storage check --compare`, on a real nats-server."""

import sqlite3
from contextlib import closing
from pathlib import Path

import nats
import pytest

from almenara.bus.compare import compare_databases
from almenara.bus.copy import copy_to_embedded, copy_to_shared
from almenara.bus.embedded import EmbeddedBus
from almenara.bus.storage_errors import StorageError
from almenara.config import BusSettings, StorageSettings
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
        assert "continues after message 2," in await copy_to_shared(folder, log, BusSettings())
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
