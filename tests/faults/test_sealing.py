"""Kills, full disks and damage while older events are sealed: nothing is lost, nothing is doubled.

`ALMENARA_KILLS=200` runs the long form.
"""

import asyncio
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from almenara.bus import Record
from almenara.bus.backup import copy_database
from almenara.bus.check import check_database, repair_database
from almenara.bus.codec import normalize
from almenara.bus.embedded import EmbeddedBus
from almenara.bus.sealing import BLOCK_EVENTS
from almenara.bus.writer import Writer
from almenara.config import StorageSettings
from almenara.config.loader import decode_settings
from almenara.history import Filter, History
from support.bus import make_events
from support.disks import small_disk
from support.log import (
    check_log,
    check_queries,
    random_event,
    random_filter,
    read_sequences,
    sleep_not,
    write,
)
from support.old_schema import downgrade_to_5
from support.seeds import choose_seed

pytestmark = pytest.mark.anyio

KILLS = int(os.environ.get("ALMENARA_KILLS", "4"))
BATCH = 20
DATABASE = "almenara.db"
PUBLISHER = """
import asyncio, json, random, sys
from pathlib import Path
from almenara.bus import event_ids, sealing
from almenara.bus.embedded import EmbeddedBus
from almenara.config import StorageSettings
from almenara.config.loader import decode_settings
from support.log import random_event

# Many small blocks, so that a kill meets every step of sealing.
sealing.BLOCK_EVENTS, sealing.CLEARED_EVENTS, sealing.READ_EVENTS = 100, 20, 40
sealing.PAUSE = 0.5
# Ids in many small parts, in tables that alternate often.
event_ids.PART_IDS, event_ids.PARTS = 50, 1_000

async def main(folder, start, batch, settings):
    tree = {**json.loads(settings), "dir": folder}
    settings = decode_settings(StorageSettings, tree, place="storage")
    async with EmbeddedBus(settings) as bus:
        print(start, flush=True)
        while True:
            numbers = range(start, start + batch)
            events = [random_event(random.Random(number), number) for number in numbers]
            # Each batch comes twice, as after an acknowledgement that was lost.
            for _ in range(2):
                await bus.publish(events, "x")
            start += batch
            print(start, flush=True)
            await asyncio.sleep(0.01)

asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
"""
SEALING: dict[str, Any] = {
    "hot_events": 100, "retention_interval": 0.02, "deduplication_window": 200,
}  # fmt: skip
SCENARIOS: dict[str, dict[str, Any]] = {
    "sealing": {},
    "migration": {},
    "retention": {"retention_age": 0.5, "retention_batch": 60},
    "rules": {"retention_rules": [{"match": {"type": "a.x"}, "age": 0.3}]},
}


def sealing(folder: Path, **settings: object) -> StorageSettings:
    defaults = {"dir": folder, "hot_events": 500, "retention_interval": 0.02}
    return StorageSettings(**{**defaults, **settings})  # type: ignore[arg-type]


def expected_record(number: int) -> Record:
    """Return what the log has of an event of the publisher; no sequence is left out."""
    return Record(number + 1, normalize(random_event(random.Random(number), number), "x"))


def check_stored(path: Path, scenario: str, least: int, chance: random.Random) -> int:
    """Compare a database with the list of what was published; return how many events that is.

    `least` of them were acknowledged.
    """
    writer = Writer(path, StorageSettings(dir=path.parent))
    with closing(writer.connection) as connection:
        stored = read_sequences(connection)
        published = max([least, *stored[-1:]])
        records = [expected_record(number) for number in range(published)]
        if scenario == "retention":
            records = records[stored[0] - 1 :] if stored else []
        elif scenario == "rules":
            # The rule removes the oldest events of the type.
            removed = {record.sequence for record in records} - set(stored)
            last = max(removed, default=0)
            records = [
                record for record in records
                if record.signal.type != "a.x" or record.sequence > last  # type: ignore[union-attr]
            ]  # fmt: skip
        assert stored == [record.sequence for record in records]
        check_log(connection, records)
        for chosen in (Filter(), random_filter(chance), random_filter(chance)):
            check_queries(connection, records, chosen, limit=400)
        newest = range(max(published - 200, 0), published)
        assert write(writer, [random_event(random.Random(each), each) for each in newest]) == []
        return published


def copy_whole(folder: Path, target: Path) -> bool:
    """Make a backup; False where the database can't be copied yet."""
    try:
        copy_database(folder, target)
    except (FileNotFoundError, sqlite3.Error):
        return False
    return True


def sealed_through(path: Path) -> int:
    """Return how far a database is sealed; 0 for one of a former version."""
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            (sequence,) = connection.execute("SELECT sealed_through FROM position").fetchone()
            return int(sequence)
    except sqlite3.Error:
        return 0


async def kill_while_publishing(
    folder: Path, scenario: str, start: int, seconds: float, is_sealing: bool
) -> int:
    """Publish in a process, copy the database meanwhile, and kill the process some time after it
    is ready or, with `is_sealing`, has sealed events; return what was acknowledged."""
    settings = json.dumps({**SEALING, **SCENARIOS[scenario]})
    process = subprocess.Popen(
        [sys.executable, "-c", PUBLISHER, str(folder), str(start), str(BATCH), settings],
        stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert process.stdout is not None
    if scenario != "migration":
        # The line is written once the database is open.
        start = int(await asyncio.to_thread(process.stdout.readline))
    async with asyncio.TaskGroup() as tasks:
        copied = tasks.create_task(
            asyncio.to_thread(copy_whole, folder, folder.with_name("copy") / DATABASE)
        )
        before = sealed_through(folder / DATABASE)
        async with asyncio.timeout(60):
            while is_sealing and sealed_through(folder / DATABASE) <= before:
                await asyncio.sleep(0.01)
        await asyncio.sleep(seconds)
        process.send_signal(signal.SIGKILL)
    lines = (await asyncio.to_thread(process.stdout.read)).split()
    process.wait()
    assert copied.result() or scenario == "migration"
    return max([start, *map(int, lines[-1:])])


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_kills_lose_and_double_nothing(tmp_path: Path, scenario: str) -> None:
    chance = random.Random(choose_seed())
    events = sealed = 0
    with patch("almenara.history.queries.sleep", sleep_not):
        for number in range(max(KILLS // len(SCENARIOS), 1)):
            folder, copies = tmp_path / "log", tmp_path / "copy"
            for each in (folder, copies):
                shutil.rmtree(each, ignore_errors=True)
                each.mkdir()
            published = 0
            if scenario == "migration":
                published = await store_in_schema_5(folder, 1_500)
            for is_sealing in (False, True):
                acknowledged = await kill_while_publishing(
                    folder, scenario, published, chance.uniform(0.05, 0.5), is_sealing
                )
                published = check_stored(folder / DATABASE, scenario, acknowledged, chance)
                published = published // BATCH * BATCH
                if (copies / DATABASE).exists():
                    check_stored(copies / DATABASE, scenario, 0, chance)
                    (copies / DATABASE).unlink()
                events += published
            assert check_database(folder).is_intact, number
            sealed += sealed_through(folder / DATABASE)
    print(f"{scenario}: {events:,} events, {sealed:,} of them sealed: none lost, none doubled")


async def store_in_schema_5(folder: Path, events: int) -> int:
    async with EmbeddedBus(StorageSettings(dir=folder)) as bus:
        await bus.publish(
            [random_event(random.Random(number), number) for number in range(events)], "x"
        )
    downgrade_to_5(folder / DATABASE)
    return events


# -- full disks


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_full_disk_loses_and_doubles_nothing(tmp_path: Path, scenario: str) -> None:
    async with small_disk(tmp_path / "disk", "24m") as disk:
        folder = disk / "data"
        folder.mkdir()
        published = 0
        if scenario == "migration":
            published = await store_in_schema_5(folder, 4_000)
        tree = {
            **SEALING, **SCENARIOS[scenario], "dir": str(folder), "disk_reserve": 1024**2,
            "write_retry_interval": 0.05,
        }  # fmt: skip
        settings = decode_settings(StorageSettings, tree, place="storage")
        ballast = disk / "ballast"
        with (
            patch("almenara.bus.sealing.BLOCK_EVENTS", 200),
            patch("almenara.bus.sealing.PAUSE", 1.0),
            patch("almenara.history.queries.sleep", sleep_not),
        ):
            fill_disk(ballast, 600_000)
            async with EmbeddedBus(settings) as bus:
                async with asyncio.TaskGroup() as tasks:
                    for start in range(published, published + 6_000, 500):
                        events = [
                            random_event(random.Random(number), number)
                            for number in range(start, start + 500)
                        ]
                        tasks.create_task(bus.publish(events, "x"))
                    async with asyncio.timeout(60):
                        while bus.write_problem is None:
                            await asyncio.sleep(0.01)
                    ballast.unlink()
                await wait_until_sealed(bus, 600)
            published += 6_000
            chance = random.Random(1)
            assert check_stored(folder / DATABASE, scenario, published, chance) == published
            assert check_database(folder).is_intact


async def test_backup_to_a_full_disk_leaves_nothing_and_disturbs_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    with patch("almenara.bus.sealing.BLOCK_EVENTS", 200):
        async with EmbeddedBus(sealing(folder)) as bus:
            events = [random_event(random.Random(number), number) for number in range(3_000)]
            await bus.publish(events, "x")
            async with small_disk(tmp_path / "disk", "512k") as disk:
                with pytest.raises((OSError, sqlite3.Error)):
                    await asyncio.to_thread(copy_database, folder, disk / "copy.db")
                assert list(disk.iterdir()) == []
            await wait_until_sealed(bus, 2_000)
    with patch("almenara.history.queries.sleep", sleep_not):
        assert check_stored(folder / DATABASE, "sealing", 3_000, random.Random(1)) == 3_000


def fill_disk(ballast: Path, left: int) -> None:
    disk = os.statvfs(ballast.parent)
    ballast.write_bytes(bytes(max(disk.f_bavail * disk.f_frsize - left, 0)))


async def wait_until_sealed(bus: EmbeddedBus, sequence: int) -> None:
    """Return once no event up to a sequence is a row; retention may have removed it before."""
    statement = (
        "SELECT max(sealed_through, coalesce((SELECT min(sequence) FROM events) - 1,"
        " last_sequence)) FROM position"
    )
    async with asyncio.timeout(60):
        while (await bus.read(lambda log: log.execute(statement).fetchone()))[0] < sequence:
            await asyncio.sleep(0.01)


# -- damage


async def read_numbers(bus: EmbeddedBus) -> list[int]:
    """The numbers of all events, in the order of the log, read in pages."""
    history = History(bus)
    numbers: list[int] = []
    after = 0
    while page := await history.events(Filter(), after=after, limit=700):
        numbers += [int(record.signal.id) for record in reversed(page)]  # type: ignore[union-attr]
        after = page[0].sequence
    return numbers


async def test_damaged_block_loses_no_other(tmp_path: Path) -> None:
    events = 4 * BLOCK_EVENTS + 500
    async with EmbeddedBus(sealing(tmp_path)) as bus:
        for start in range(0, events, 500):
            await bus.publish(make_events(start, 500), "x")
        await wait_until_sealed(bus, 4 * BLOCK_EVENTS)
    with sqlite3.connect(tmp_path / "almenara.db") as connection:
        last, content = connection.execute(
            "SELECT * FROM block_contents ORDER BY block LIMIT 1 OFFSET 1"
        ).fetchone()
        wrong = bytearray(content)
        wrong[len(wrong) // 2] ^= 0xFF
        connection.execute("UPDATE block_contents SET content = ? WHERE block = ?", (wrong, last))
    connection.close()

    remaining = [*range(BLOCK_EVENTS), *range(2 * BLOCK_EVENTS, events)]
    async with EmbeddedBus(sealing(tmp_path)) as bus:
        assert await read_numbers(bus) == remaining
        # The counts of a whole word are stored beside the blocks; those of a part of one are not.
        assert await History(bus).count(Filter(text="n")) == events
        assert await History(bus).count(Filter(text="n*")) == len(remaining)
        assert any("could not be read" in text for text in bus.warnings)
    report = check_database(tmp_path)
    assert not report.is_intact
    assert report.events == len(remaining)
    text = report.describe()
    assert f"a block of {BLOCK_EVENTS:,} events, sequence {BLOCK_EVENTS + 1} to" in text
    assert "t0, t1, t2, t3, t4" in text
    repair_database(tmp_path)
    assert check_database(tmp_path).is_intact
    async with EmbeddedBus(sealing(tmp_path)) as bus:
        assert await read_numbers(bus) == remaining
        history = History(bus)
        assert await history.count_stored() == len(remaining)
        async with asyncio.timeout(20):
            while await history.count(Filter(type="t1")) != len(remaining) // 5:
                await asyncio.sleep(0.02)
        assert await history.types() == [f"t{number}" for number in range(5)]
