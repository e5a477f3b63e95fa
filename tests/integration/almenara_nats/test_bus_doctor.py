"""What `almenara doctor` reports of a shared bus, on a real nats-server."""

import asyncio
from pathlib import Path

import nats
import pytest

from almenara.bus.copy import copy_to_embedded
from almenara.bus.shared import SharedBus
from almenara.bus.snapshot_writer import SnapshotWriter
from almenara.cli.bus_findings import REPLICAS, SNAPSHOTS, check_shared_log
from almenara.cli.doctor import check_replica_folder
from almenara.config import BusSettings, Settings, StorageSettings
from almenara.hookspecs import Finding
from almenara.leases.members import SettingsDigests, read_members
from almenara.leases.shared import SharedLeases
from support.bus import make_event
from support.replicas import replica, shared_log
from support.servers import NatsServer

pytestmark = pytest.mark.anyio

SETTINGS = BusSettings(kind="jetstream")


async def find(server: NatsServer, check: str) -> list[Finding]:
    findings = await check_shared_log(shared_log(server), SETTINGS)
    return [finding for finding in findings if finding.check == check]


async def test_doctor_reports_what_acknowledged_messages_survive(nats_server: NatsServer) -> None:
    await shared_log(nats_server).prepare()
    (finding,) = await find(nats_server, "durability of the bus")
    assert "lost with the disk of its server" in finding.message
    assert "sync_interval: always" in finding.message


async def test_doctor_watches_that_the_stream_reaches_back_to_a_snapshot(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    log = shared_log(nats_server)
    await log.prepare()
    (finding,) = await find(nats_server, SNAPSHOTS)
    assert (finding.verdict, finding.message[:8]) == ("ok", "none yet")
    writer = SnapshotWriter(tmp_path / "a", log, SETTINGS, "a")
    async with replica(nats_server, tmp_path / "a") as bus:
        await bus.publish([make_event(0)], "test")
        await writer.write(bus)
        (finding,) = await find(nats_server, SNAPSHOTS)
        assert (finding.verdict, finding.message[:15]) == ("ok", "the newest of 1")
        for number in range(1, 6):
            await bus.publish([make_event(number)], "test")
        client = await nats.connect(nats_server.url)
        config = (await client.jetstream().stream_info("ALMENARA_BUS")).config
        await client.jetstream().update_stream(config.evolve(max_msgs=2))
        await client.close()
        (finding,) = await find(nats_server, SNAPSHOTS)
        assert (finding.verdict, finding.message[:17]) == ("failed", "no snapshot leads")
        await writer.write(bus)
        (finding,) = await find(nats_server, SNAPSHOTS)
        assert finding.verdict == "ok"


async def test_doctor_compares_the_age_limit_with_the_interval(nats_server: NatsServer) -> None:
    await shared_log(nats_server, max_age=3_600).prepare()
    finding, _ = await find(nats_server, SNAPSHOTS)
    assert finding.verdict == "failed"
    assert "max_age to at least twice" in finding.remedy


async def test_doctor_compares_replicas_with_its_configuration(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    log = shared_log(nats_server, lease_ttl=2)
    await log.prepare()
    other = Settings(storage=StorageSettings(max_resources=5))
    async with (
        log.connect() as session,
        SharedBus(StorageSettings(dir=tmp_path / "a"), log) as bus,
    ):
        leases = SharedLeases(bus, "a", SettingsDigests(other))
        keeping = asyncio.create_task(leases.run_keeper())
        try:
            while not await read_members(session):
                await asyncio.sleep(0.1)
            digests = SettingsDigests(other).read()
            findings = await check_shared_log(log, SETTINGS, digests)
            (finding,) = [each for each in findings if each.check == REPLICAS]
            assert finding.verdict == "ok"
            assert finding.message == "a: running, with the same settings"
            digests = SettingsDigests(Settings()).read()
            findings = await check_shared_log(log, SETTINGS, digests)
            (finding,) = [each for each in findings if each.check == REPLICAS]
            assert finding.verdict == "warning"
            assert finding.message.endswith("from this configuration in storage.max_resources")
            assert "Give all replicas the same configuration" in finding.remedy
        finally:
            keeping.cancel()
            await asyncio.wait([keeping])


async def test_doctor_refuses_the_folder_of_an_embedded_bus(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    folder, log = tmp_path / "a", shared_log(nats_server)
    settings = Settings(storage=StorageSettings(dir=folder))
    await log.prepare()
    assert check_replica_folder(settings) == []
    async with replica(nats_server, folder) as bus:
        await bus.publish([make_event(1)], "test")
    assert check_replica_folder(settings) == []
    await copy_to_embedded(folder, log)
    (finding,) = check_replica_folder(settings)
    assert finding.verdict == "failed"
    assert "not in the shared log" in finding.message
    assert "`almenara bus copy --to shared`" in finding.remedy
