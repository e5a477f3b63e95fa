"""Snapshots of the history: written and restored on a real nats-server, also across `kill -9`."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import msgspec
import nats
import pytest

from almenara import __version__
from almenara.bus.compare import compare_databases
from almenara.bus.shared import SharedBus
from almenara.bus.snapshot_writer import (
    SnapshotRecord,
    SnapshotWriter,
    is_close_to_start,
    is_usable,
)
from almenara.bus.snapshots import (
    MANIFEST,
    Manifest,
    SnapshotTooNewError,
    encode_manifest,
    read_manifests,
    restore_snapshot,
)
from almenara.bus.storage_errors import StorageError
from almenara.bus.writer_thread import DATABASE
from almenara.cli.bus_findings import check_snapshots
from almenara.config import BusSettings
from almenara.shared_log import LogBounds, SharedLog
from almenara.state.schemas import SCHEMAS
from support.bus import collect_records, make_event
from support.replicas import replica, shared_log
from support.servers import NatsServer

pytestmark = pytest.mark.anyio

EVENTS = 3_000
FILLING = "x" * 4_000

KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from almenara.bus import snapshots
from almenara.bus.snapshot_writer import SnapshotWriter
from almenara.config import BusSettings
from almenara.state.schemas import SCHEMAS
from almenara_nats.bus_objects import JetStreamObjects
from support.replicas import shared_log

action, folder, address = sys.argv[1:]
calls = 0

def kill_in(method):
    async def call(self, name, *content):
        global calls
        if name.startswith("part-"):
            calls += 1
        if calls == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return await method(self, name, *content)
    return call

async def main():
    log = shared_log(address)
    if action == "write":
        JetStreamObjects.put = kill_in(JetStreamObjects.put)
        await SnapshotWriter(Path(folder), log, BusSettings(), "a").write(None)
    else:
        JetStreamObjects.get = kill_in(JetStreamObjects.get)
        await snapshots.restore_snapshot(Path(folder), log, SCHEMAS)

asyncio.run(main())
"""


def run_until_killed(action: str, folder: Path, server: NatsServer) -> None:
    """Write or restore a snapshot in a process that is killed at the third part."""
    command = [sys.executable, "-c", KILLED, action, str(folder), server.url]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


async def limit_stream(server: NatsServer, messages: int) -> int:
    """Let the stream delete all but its newest messages; return the first that is left."""
    client = await nats.connect(server.url)
    jetstream = client.jetstream()
    config = (await jetstream.stream_info("ALMENARA_BUS")).config
    await jetstream.update_stream(config.evolve(max_msgs=messages))
    first = (await jetstream.stream_info("ALMENARA_BUS")).state.first_seq
    await client.close()
    return first


async def publish(bus, first: int, count: int) -> None:
    for start in range(first, first + count, 100):
        events = [
            make_event(number, id=str(number), data={"filling": f"{number} {FILLING}"})
            for number in range(start, start + 100)
        ]
        await bus.publish(events, "test")


async def settle(folder: Path) -> None:
    """Return once nothing is merged any more, so that two snapshots have the same pages."""
    with closing(sqlite3.connect(folder / "almenara.db")) as connection:
        version = None
        while (read := connection.execute("PRAGMA data_version").fetchone()) != version:
            version = read
            await asyncio.sleep(0.5)


async def object_names(server: NatsServer) -> set[str]:
    async with shared_log(server).connect() as session:
        return await session.snapshots.names()


async def test_replica_with_an_empty_disk_starts_from_a_snapshot(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    await shared_log(nats_server).prepare()
    first, second = tmp_path / "a", tmp_path / "b"
    writer = SnapshotWriter(first, shared_log(nats_server), BusSettings(), "a")
    async with replica(nats_server, first) as bus:
        await publish(bus, 0, EVENTS)
        await settle(first)
        run_until_killed("write", first, nats_server)
        partial = await object_names(nats_server)
        assert partial
        assert not any(name.startswith(MANIFEST) for name in partial)
        await writer.write(bus)
        # What the interrupted snapshot had stored is not stored again.
        complete = await object_names(nats_server)
        assert partial < complete
        await publish(bus, EVENTS, 1_000)
        assert await limit_stream(nats_server, 12) > 10
        run_until_killed("restore", second, nats_server)
        assert (second / "almenara.db.restored").stat().st_size > 0
        assert not (second / "almenara.db").exists()
        async with replica(nats_server, second) as other:
            await publish(bus, EVENTS + 1_000, 100)
            records = await collect_records(other, 0, EVENTS + 1_100)
            assert records == await collect_records(bus, 0, EVENTS + 1_100)
    async with replica(nats_server, second):
        pass
    assert compare_databases(first, second) == []
    assert not list(second.glob("*.restored"))


async def test_old_snapshots_are_deleted(nats_server: NatsServer, tmp_path: Path) -> None:
    await shared_log(nats_server).prepare()
    settings = BusSettings(snapshot_count=2)
    writer = SnapshotWriter(tmp_path / "a", shared_log(nats_server), settings, "a")
    async with replica(nats_server, tmp_path / "a") as bus:
        manifests = []
        for number in range(3):
            await publish(bus, number * 100, 100)
            manifests.append(await writer.write(bus))
    names = await object_names(nats_server)
    expected = {manifest.name for manifest in manifests[1:]}
    assert names == expected.union(*(manifest.parts for manifest in manifests[1:]))


async def test_late_snapshot_deletes_no_newer_one(nats_server: NatsServer, tmp_path: Path) -> None:
    log = shared_log(nats_server)
    await log.prepare()
    async with replica(nats_server, tmp_path / "a") as bus:
        await publish(bus, 0, 100)
    async with replica(nats_server, tmp_path / "b") as bus:
        await publish(bus, 100, 100)
        newer = await write_two(bus, tmp_path / "b", log)
    await SnapshotWriter(tmp_path / "a", log, BusSettings(), "a").write(None)
    names = await object_names(nats_server)
    assert names == {manifest.name for manifest in newer}.union(*(each.parts for each in newer))


async def test_lagging_replica_starts_from_a_snapshot(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    await shared_log(nats_server).prepare()
    async with replica(nats_server, tmp_path / "a") as bus:
        await publish(bus, 0, 100)
        async with replica(nats_server, tmp_path / "b") as other:
            await collect_records(other, 0, 100)
        await publish(bus, 100, 1_000)
        await limit_stream(nats_server, 5)
        with pytest.raises(StorageError, match="no snapshot"):
            async with replica(nats_server, tmp_path / "b", start_patience=0.1):
                raise AssertionError
        writer = SnapshotWriter(tmp_path / "a", shared_log(nats_server), BusSettings(), "a")
        await writer.write(bus)
        async with replica(nats_server, tmp_path / "b") as other:
            assert len(await collect_records(other, 0, 1_100)) == 1_100
    assert list((tmp_path / "b").glob("almenara.db.diverged"))


async def write_two(bus: SharedBus, folder: Path, log: SharedLog) -> tuple[Manifest, Manifest]:
    """Write a snapshot after 100 events, and one after further 100."""
    writer = SnapshotWriter(folder, log, BusSettings(), "a")
    manifests = []
    for start in (0, 100):
        await publish(bus, start, 100)
        manifests.append(await writer.write(bus))
    older, newer = manifests
    return older, newer


async def test_damaged_snapshot_is_left_out(nats_server: NatsServer, tmp_path: Path) -> None:
    log = shared_log(nats_server)
    await log.prepare()
    async with replica(nats_server, tmp_path / "a") as bus:
        older, newer = await write_two(bus, tmp_path / "a", log)
        async with log.connect() as session:
            for name in newer.parts - older.parts:
                await session.snapshots.put(name, b"damaged")
        restored = await restore_snapshot(tmp_path / "b", log, SCHEMAS)
        assert restored is not None
        assert restored.position == older.position
        # What is damaged is no longer there, so that the next snapshot stores it again.
        assert not (newer.parts - older.parts) & await object_names(nats_server)


async def test_snapshot_of_a_newer_version_is_left_out(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    log = shared_log(nats_server)
    await log.prepare()
    async with replica(nats_server, tmp_path / "a") as bus:
        older, newer = await write_two(bus, tmp_path / "a", log)
        assert {file.name: file.schema for file in newer.files} == {
            file.name: SCHEMAS[file.name] for file in newer.files
        }
        await publish(bus, 200, 100)
        await pretend_newer(log, newer)
        restored = await restore_snapshot(tmp_path / "b", log, SCHEMAS)
        assert restored is not None
        assert restored.position == older.position
        # One of this version does not delete what the others need.
        await SnapshotWriter(tmp_path / "a", log, BusSettings(), "a").write(bus)
        assert newer.name in await object_names(nats_server)


async def test_snapshots_that_are_too_new_name_both_versions(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    log = shared_log(nats_server)
    await log.prepare()
    async with replica(nats_server, tmp_path / "a") as bus:
        await publish(bus, 0, 100)
        await pretend_newer(
            log, await SnapshotWriter(tmp_path / "a", log, BusSettings(), "a").write(bus)
        )
        with pytest.raises(SnapshotTooNewError, match=rf"99\.1.*\({__version__}\).* Upgrade"):
            await restore_snapshot(tmp_path / "b", log, SCHEMAS)
        assert not list((tmp_path / "b").glob("*.restored"))
        # The log has all that the snapshot has.
        async with replica(nats_server, tmp_path / "b") as other:
            assert len(await collect_records(other, 0, 100)) == 100
        await publish(bus, 100, 100)
        await limit_stream(nats_server, 2)
        with pytest.raises(StorageError, match=r"99\.1.*Upgrade this replica"):
            async with replica(nats_server, tmp_path / "c", start_patience=0.1):
                raise AssertionError
        async with log.connect() as session:
            (manifest,) = await read_manifests(session.snapshots, await session.snapshots.names())
            finding = check_snapshots([manifest], await session.bounds(), BusSettings(), 0)
        assert finding.verdict == "failed"
        assert "99.1" in finding.message
        assert finding.remedy == "Upgrade this replica."


async def pretend_newer(log: SharedLog, manifest: Manifest) -> None:
    """Let a later version of Almenara have written a snapshot."""
    files = [
        msgspec.structs.replace(file, schema=file.schema + (file.name == DATABASE))
        for file in manifest.files
    ]
    newer = msgspec.structs.replace(manifest, files=files, almenara="99.1")
    async with log.connect() as session:
        await session.snapshots.put(newer.name, encode_manifest(newer))


async def test_snapshot_without_some_of_its_messages_is_left_out(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    log = shared_log(nats_server)
    await log.prepare()
    async with replica(nats_server, tmp_path / "a") as bus:
        older, newer = await write_two(bus, tmp_path / "a", log)
    client = await nats.connect(nats_server.url)
    jetstream = client.jetstream()
    store = await jetstream.object_store(log.bus.snapshot_bucket)
    for name in newer.parts - older.parts:
        chunks = f"$O.{log.bus.snapshot_bucket}.C.{(await store.get_info(name)).nuid}"
        await jetstream.purge_stream(f"OBJ_{log.bus.snapshot_bucket}", subject=chunks)
    await client.close()
    restored = await restore_snapshot(tmp_path / "b", log, SCHEMAS)
    assert restored is not None
    assert restored.position == older.position


def test_snapshot_is_due_before_limits_reach_it() -> None:
    record = SnapshotRecord(created=0, resume_at=101)
    assert not is_close_to_start(record, LogBounds(identity="", first=1, last=900))
    assert not is_close_to_start(record, LogBounds(identity="", first=40, last=150))
    assert is_close_to_start(record, LogBounds(identity="", first=60, last=150))
    assert is_usable(record, LogBounds(identity="", first=101, last=150))
    assert not is_usable(record, LogBounds(identity="", first=102, last=150))
    assert not is_usable(None, LogBounds(identity="", first=2, last=150))
    assert is_usable(None, LogBounds(identity="", first=1, last=150))
