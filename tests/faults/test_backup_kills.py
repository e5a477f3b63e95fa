"""Kills and full disks during a backup into a directory: it has a complete one at any moment.

`ALMENARA_KILLS=200` runs the long form.
"""

import asyncio
import os
import random
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from almenara.bus import Record
from almenara.bus.backup_folder import read_list
from almenara.bus.backup_history import restore_history
from almenara.bus.check import check_database
from almenara.bus.codec import normalize
from almenara.bus.embedded import EmbeddedBus
from almenara.bus.writer import Writer
from almenara.config import StorageSettings
from almenara.config.loader import decode_settings
from support.bus import make_event
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
from support.seeds import choose_seed

pytestmark = pytest.mark.anyio

KILLS = int(os.environ.get("ALMENARA_KILLS", "6"))
MANY_KILLS = 40
"""With so many, some backups are killed and some are not."""
BACKUP = """
import sys
from pathlib import Path
from almenara.bus import backup_history
from almenara.bus.backup_folder import BackupFolder, BackupList
from almenara.bus.schema import VERSION

# Many small files, so that a kill meets every step.
backup_history.SEGMENT_BYTES = 3_000
source, target = map(Path, sys.argv[1:])
print("started", flush=True)
with BackupFolder(target) as folder:
    history = backup_history.back_up_history(source, folder, verify=True)
    folder.commit(
        BackupList(schema=VERSION, created="", events=history.events, files=history.files)
    )
"""
SCENARIOS: dict[str, dict[str, Any]] = {
    "sealing": {},
    "rules": {"retention_rules": [{"match": {"type": "a.x"}, "age": 0.3}]},
}


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_killed_backups_leave_a_complete_one(tmp_path: Path, scenario: str) -> None:
    chance = random.Random(choose_seed())
    source, target = tmp_path / "log", tmp_path / "backup"
    target.mkdir()
    tree = {"dir": str(source), "hot_events": 100, "retention_interval": 0.02}
    settings = decode_settings(StorageSettings, tree | SCENARIOS[scenario], place="storage")
    restored = completed = 0
    loop = asyncio.get_running_loop()
    with (
        patch("almenara.bus.sealing.BLOCK_EVENTS", 100),
        patch("almenara.bus.sealing.PAUSE", 0.05),
        patch("almenara.history.queries.sleep", sleep_not),
    ):
        async with EmbeddedBus(settings) as bus:
            await publish(bus, 0, 1_500)
            longest = loop.time()
            (tmp_path / "whole").mkdir()
            await asyncio.to_thread(run_backup, source, tmp_path / "whole", None)
            longest = loop.time() - longest
            for number in range(KILLS // len(SCENARIOS)):
                # Some backups are complete by then.
                seconds = chance.uniform(0, longest)
                backup = asyncio.create_task(asyncio.to_thread(run_backup, source, target, seconds))
                published = 1_500 + number * 100
                await publish(bus, published, 100)
                is_complete = await backup
                completed += is_complete
                last = restore_and_check(target, tmp_path / f"kill-{number}", scenario, chance)
                assert last >= published or not is_complete
                restored += last > 0
            await asyncio.to_thread(run_backup, source, target, None)
        assert restore_and_check(target, tmp_path / "last", scenario, chance)
    print(
        f"{scenario}: {KILLS // len(SCENARIOS) - completed} backups were killed, {completed} were"
        f" complete before; {restored} times there was one to restore"
    )
    if KILLS >= MANY_KILLS:
        assert 0 < completed < KILLS // len(SCENARIOS)


async def publish(bus: EmbeddedBus, first: int, count: int) -> None:
    for start in range(first, first + count, 20):
        numbers = range(start, start + 20)
        await bus.publish([random_event(random.Random(each), each) for each in numbers], "x")
        await asyncio.sleep(0.002)


def run_backup(source: Path, target: Path, seconds: float | None) -> bool:
    """Make a backup in a process that is killed after some time; return whether it is complete."""
    process = subprocess.Popen(
        [sys.executable, "-c", BACKUP, str(source), str(target)],
        stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert process.stdout is not None
    with process.stdout as output:
        assert output.readline() == b"started\n"
    try:
        assert process.wait(seconds) == 0
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
    return True


def restore_and_check(source: Path, folder: Path, scenario: str, chance: random.Random) -> int:
    """Restore the last complete backup and compare it with what was published; return its last
    sequence, 0 where there is none."""
    if (listed := read_list(source)) is None:
        return 0
    folder.mkdir()
    path = folder / "almenara.db"
    restore_history(source, listed, path, lambda done, total: None)
    assert check_database(folder).is_intact
    writer = Writer(path, StorageSettings(dir=folder))
    with closing(writer.connection) as connection:
        (last,) = connection.execute("SELECT last_sequence FROM position").fetchone()
        records = [
            Record(number + 1, normalize(random_event(random.Random(number), number), "x"))
            for number in range(last)
        ]
        if scenario == "rules":
            stored = set(read_sequences(connection))
            removed = {record.sequence for record in records} - stored
            records = [record for record in records if record.sequence not in removed]
            types = {
                each.signal.type for each in records if each.sequence < max(removed, default=0)
            }  # type: ignore[union-attr]
            assert "a.x" not in types
            (events,) = connection.execute("SELECT events FROM position").fetchone()
            assert events == len(records)
        check_log(connection, records)
        for chosen in (random_filter(chance), random_filter(chance)):
            check_queries(connection, records, chosen, limit=400)
        # The ids of events are restored too.
        assert (
            write(writer, [random_event(random.Random(each), each) for each in range(last)]) == []
        )
    return int(last)


async def test_full_disk_leaves_the_last_backup(tmp_path: Path) -> None:
    source = tmp_path / "log"
    settings = StorageSettings(dir=source, hot_events=100, retention_interval=0.02)
    async with small_disk(tmp_path / "disk", "4m") as disk:
        with patch("almenara.history.queries.sleep", sleep_not):
            async with EmbeddedBus(settings) as bus:
                await publish(bus, 0, 500)
                await asyncio.to_thread(run_backup, source, disk, None)
                listed = (disk / "backup.json").read_bytes()
                await bus.publish([make_event(500, data="x" * 6_000_000)], "x")
                with pytest.raises(AssertionError):
                    await asyncio.to_thread(run_backup, source, disk, None)
            assert (disk / "backup.json").read_bytes() == listed
            assert {path.name for path in disk.iterdir() if path.suffix != ".db"} == {
                "almenara.lock", "backup.json",
            }  # fmt: skip
            assert restore_and_check(disk, tmp_path / "restored", "sealing", random.Random(1))
