"""Faults of the disk and of the storage folder: nothing is lost, doubled, or named wrongly."""

import asyncio
import os
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from almenara.bus.check import check_database, repair_database
from almenara.bus.embedded import EmbeddedBus
from almenara.bus.folder import FolderInUseError, check_folder, find_owner
from almenara.config import StorageSettings
from almenara.errors import AlmenaraError
from almenara.history import Filter, History
from almenara.signals import Event, Resource, Sample
from almenara.state.resources import Resources
from support.application import Almenara
from support.bus import collect_records, make_event
from support.disks import small_disk
from support.seeds import choose_seed
from support.servers import wait_until

pytestmark = pytest.mark.anyio

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a disk")


# -- two processes


async def test_second_process_is_refused_with_the_id_of_the_first(tmp_path: Path) -> None:
    settings = StorageSettings(dir=tmp_path)
    async with EmbeddedBus(settings) as bus:
        await bus.publish([make_event(1)], "x")
        assert find_owner(tmp_path) is not None
        code = (
            "import asyncio, pathlib, sys\n"
            "from almenara.bus.embedded import EmbeddedBus\n"
            "from almenara.config import StorageSettings\n"
            "async def main():\n"
            "    async with EmbeddedBus(StorageSettings(dir=pathlib.Path(sys.argv[1]))): pass\n"
            "asyncio.run(main())\n"
        )
        second = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", code, str(tmp_path)], capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert second.returncode == 1
        assert "FolderInUseError" in second.stderr
        assert f"the process with id {os.getpid()}" in second.stderr
        with pytest.raises(FolderInUseError):
            await EmbeddedBus(settings).__aenter__()
        await bus.publish([make_event(2)], "x")
        assert await History(bus).count_stored() == 2
    assert find_owner(tmp_path) is None
    async with EmbeddedBus(settings) as bus:
        await bus.publish([make_event(3)], "x")
        assert [one.sequence for one in await collect_records(bus, 0, 3)] == [1, 2, 3]


def test_second_serve_names_the_first_and_backup_works_beside_it(tmp_path: Path) -> None:
    with Almenara(tmp_path / "first") as first:
        assert first.process is not None
        second = Almenara(tmp_path / "second", storage__dir=str(tmp_path / "first" / "var"))
        done = second.command("serve")
        assert done.returncode == 1
        assert f"the process with id {first.process.pid}" in " ".join(done.stderr.split())
        assert first.command("backup", str(tmp_path / "copy.db")).returncode == 0
        assert (tmp_path / "copy.db").stat().st_mode & 0o077 == 0
        checked = first.command("storage", "check")
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert "are readable" in checked.stdout
        assert first.status("/readyz") == 200


async def test_positions_come_from_the_tables_where_another_process_wrote(tmp_path: Path) -> None:
    settings = StorageSettings(dir=tmp_path)
    async with EmbeddedBus(settings) as bus:
        await bus.publish([make_event(one) for one in range(10)], "x")
    connection = sqlite3.connect(tmp_path / "almenara.db")
    connection.execute("UPDATE position SET last_sequence = 3")
    connection.commit()
    connection.close()
    async with EmbeddedBus(settings) as bus:
        assert bus.last_sequence == 10
        await bus.publish([make_event(10)], "x")
        assert [one.sequence for one in await collect_records(bus, 0, 11)] == list(range(1, 12))


# -- copies


async def test_clean_stop_leaves_the_database_file_complete(tmp_path: Path) -> None:
    settings = StorageSettings(dir=tmp_path / "first")
    async with EmbeddedBus(settings) as bus:
        history = History(bus)
        for start in range(0, 8_000, 500):
            await bus.publish([make_event(one) for one in range(start, start + 500)], "x")
            await asyncio.gather(*(history.events(Filter(), limit=10) for _ in range(6)))
        await collect_records(bus, 0, 8_000)
    files = sorted(one.name for one in (tmp_path / "first").iterdir())
    assert files == ["almenara.db", "almenara.lock", "almenara.reserve"]
    (tmp_path / "second").mkdir()
    shutil.copy(tmp_path / "first" / "almenara.db", tmp_path / "second")
    async with EmbeddedBus(StorageSettings(dir=tmp_path / "second")) as bus:
        assert await History(bus).count_stored() == 8_000
        assert len(await collect_records(bus, 0, 8_000)) == 8_000


async def test_storage_files_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "var"
    async with EmbeddedBus(StorageSettings(dir=folder)) as bus:
        await bus.publish([make_event(1)], "x")
        assert folder.stat().st_mode & 0o777 == 0o700
        names = {one.name for one in folder.iterdir()}
        assert {"almenara.db", "almenara.db-wal", "almenara.lock"} <= names
        assert all(one.stat().st_mode & 0o777 == 0o600 for one in folder.iterdir())
    (folder / "almenara.db").chmod(0o644)
    async with EmbeddedBus(StorageSettings(dir=folder)):
        assert (folder / "almenara.db").stat().st_mode & 0o777 == 0o600


# -- errors of writing


def test_writing_continues_after_errors_of_the_disk(tmp_path: Path) -> None:
    """The kernel refuses writes beyond a size for a while (EFBIG): an error that SQLite reports as
    one of the disk. Nothing is lost, and no restart is needed."""
    with Almenara(
        tmp_path / "almenara",
        plugins_dir=str(write_publisher(tmp_path)),
        storage__write_retry_interval="0.1",
    ) as almenara:
        assert almenara.process is not None
        almenara.wait_for_events(2_000)
        limit = 256 * 1024
        resource.prlimit(almenara.process.pid, resource.RLIMIT_FSIZE, (limit, -1))
        wait_until(lambda: almenara.get("/api/health")["write_problem"] is not None, "the fault")
        problem = almenara.get("/api/health")["write_problem"]
        assert "Writing is tried again" in problem
        assert almenara.status("/healthz") == 200
        stored = almenara.stored()
        resource.prlimit(almenara.process.pid, resource.RLIMIT_FSIZE, (-1, -1))
        wait_until(lambda: almenara.get("/api/health")["write_problem"] is None, "recovery")
        almenara.wait_for_events(stored + 1_000)
        numbers = sorted(one["data"]["n"] for one in almenara.events("?type=load"))
    assert numbers == list(range(len(numbers)))


def test_probes_fail_and_publishers_are_answered_when_the_writer_has_ended(tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "killer.py").write_text(
        "import almenara, asyncio, ctypes, threading\n"
        "from almenara.signals import Event, now\n"
        "class Killer:\n"
        "    name = 'killer'\n"
        "    async def run(self, publish):\n"
        "        writer = next(it for it in threading.enumerate() if it.name == 'bus-writer')\n"
        "        ctypes.pythonapi.PyThreadState_SetAsyncExc(\n"
        "            ctypes.c_ulong(writer.ident), ctypes.py_object(SystemExit))\n"
        "        await publish([Event(id='1', source='x', type='x', time=now())])\n"
        "        await asyncio.Event().wait()\n"
        "@almenara.hookimpl\n"
        "def almenara_sources(context): return [Killer()]\n"
    )
    almenara = Almenara(tmp_path / "almenara", plugins_dir=str(plugins))
    almenara.launch()
    try:
        wait_until(lambda: almenara.status("/healthz") == 503, "liveness to fail", 60)
        assert almenara.status("/readyz") == 503
        assert almenara.status("/api/events") == 200
        assert almenara.status("/sources") == 200
    finally:
        almenara.stop()
    assert "the bus has stopped" in almenara.log


def write_publisher(folder: Path) -> Path:
    """A plugin that publishes numbered events, each batch only when the one before is stored."""
    plugins = folder / "plugins"
    plugins.mkdir()
    (plugins / "load.py").write_text(
        "import almenara, asyncio, itertools\n"
        "from almenara.signals import Event, now\n"
        "class Load:\n"
        "    name = 'load'\n"
        "    async def run(self, publish):\n"
        "        for start in itertools.count(0, 50):\n"
        "            await publish([Event(id=str(n), source='load', type='load', time=now(),\n"
        "                data={'n': n, 'pad': 'x' * 300}) for n in range(start, start + 50)])\n"
        "            await asyncio.sleep(0.02)\n"
        "@almenara.hookimpl\n"
        "def almenara_sources(context): return [Load()]\n"
    )
    return plugins


@as_root
async def test_bus_starts_on_a_full_disk_serves_history_and_waits(tmp_path: Path) -> None:
    async with small_disk(tmp_path / "disk", "12m") as disk:
        settings = StorageSettings(dir=disk, disk_reserve=1024**2, write_retry_interval=0.05)
        async with EmbeddedBus(settings) as bus:
            await bus.publish([make_event(one) for one in range(500)], "x")
        (disk / "almenara.reserve").unlink()
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(b"\0" * 4096)
        async with EmbeddedBus(settings) as bus:
            history = History(bus)
            publishing = asyncio.create_task(bus.publish([make_event(500)], "x"))
            async with asyncio.timeout(10):
                while bus.write_problem is None:
                    await asyncio.sleep(0.01)
            assert "Free at least 3 MiB" in bus.write_problem
            assert "are free now" in bus.write_problem
            assert bus.failure is None
            assert await history.count_stored() == 500
            assert len(await history.events(Filter(), limit=1_000)) == 500
            assert len(await collect_records(bus, 0, 500)) == 500
            filler.unlink()
            async with asyncio.timeout(10):
                await publishing
                while bus.write_problem is not None:
                    await asyncio.sleep(0.01)
            assert await history.count_stored() == bus.last_sequence == 501
            assert [one.sequence for one in await collect_records(bus, 0, 501)] == [*range(1, 502)]


# -- folders that cannot be used


async def refusal(folder: Path) -> str:
    with pytest.raises(AlmenaraError) as raised:
        await EmbeddedBus(StorageSettings(dir=folder)).__aenter__()
    return str(raised.value)


async def test_file_in_place_of_the_folder_is_refused_plainly(tmp_path: Path) -> None:
    (tmp_path / "var").write_text("not a folder")
    for folder in (tmp_path / "var", tmp_path / "var" / "deeper"):
        assert "is a file" in await refusal(folder)
        assert "is a file" in (check_folder(folder) or "")


async def test_file_that_is_no_database_is_refused_as_damaged(tmp_path: Path) -> None:
    (tmp_path / "almenara.db").write_text("this is not a database, and it is long enough" * 100)
    assert "is damaged" in await refusal(tmp_path)


async def test_newer_schema_is_reported_by_doctor_and_serve(tmp_path: Path) -> None:
    almenara = Almenara(tmp_path)
    (tmp_path / "var").mkdir()
    connection = sqlite3.connect(tmp_path / "var" / "almenara.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    for command in ("serve", "doctor"):
        done = await asyncio.to_thread(almenara.command, command)
        assert done.returncode == 1
        text = " ".join((done.stdout + done.stderr).replace("│", " ").split())
        assert "was written by a newer Almenara" in text
        assert "Traceback" not in text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_folder_without_rights_is_refused_plainly(tmp_path: Path) -> None:
    folder = tmp_path / "var"
    folder.mkdir(mode=0o500)
    assert f"It runs as user id {os.geteuid()}" in await refusal(folder)
    assert check_folder(folder) is not None


# -- damage


async def fill(settings: StorageSettings, count: int = 3_000) -> dict[int, Event]:
    """Publish signals of every kind; the events by sequence."""
    async with EmbeddedBus(settings) as bus:
        for start in range(0, count, 300):
            await bus.publish(
                [make_event(one, type=f"type-{one % 40}", data={"n": one, "pad": "x" * 200})
                 for one in range(start, start + 300)], "x",
            )  # fmt: skip
            await bus.publish(
                [Resource(kind="pod", name=f"p{one}") for one in range(start, start + 20)]
                + [Sample(kind="pod", name="p1", metric="m", value=one) for one in range(20)], "x",
            )  # fmt: skip
            await bus.save("plugin", f"key-{start}", b"x" * 500)
        records = await collect_records(bus, 0, bus.last_sequence)
    return {one.sequence: one.signal for one in records if isinstance(one.signal, Event)}


async def read_everything(settings: StorageSettings, events: dict[int, Event]) -> str:
    """Read a damaged database in every way; what came of it. Raises where a reader fails."""
    bus = EmbeddedBus(settings)
    try:
        await bus.__aenter__()
    except AlmenaraError as error:
        assert "is damaged" in str(error), error
        return "refused"
    try:
        await Resources().rebuild(bus)
        for chosen in (Filter(), Filter(type="type-7"), Filter(text="n"), Filter(origin="x")):
            try:
                for record in await History(bus).events(chosen, limit=5_000):
                    assert record.signal == events[record.sequence], "a wrong row was returned"
            except AlmenaraError as error:
                assert "is damaged" in str(error)
        async with asyncio.timeout(30):
            cursor = 0
            async for batch in bus.subscribe(0):
                for record in batch:
                    assert record.sequence > cursor
                    cursor = record.sequence
                    if isinstance(record.signal, Event):
                        assert record.signal == events[record.sequence]
                if cursor >= bus.last_sequence - 600 and bus.decoder.skipped:
                    break
                if cursor >= bus.last_sequence:
                    break
        return "skipped" if bus.decoder.skipped else "intact"
    finally:
        await bus.__aexit__()


async def test_flipped_bytes_are_noticed_named_and_contained(tmp_path: Path) -> None:
    chance = random.Random(choose_seed())
    original = StorageSettings(dir=tmp_path / "original")
    events = await fill(original, 900)
    size = (tmp_path / "original" / "almenara.db").stat().st_size
    outcomes: dict[str, int] = {}
    for number in range(25):
        folder = tmp_path / f"copy-{number}"
        folder.mkdir()
        path = shutil.copy(tmp_path / "original" / "almenara.db", folder)
        with open(path, "r+b") as file:
            # The first page has the schema, where one byte renames a column.
            end = chance.choice((4_096, size, size))
            for _ in range(chance.choice((1, 5, 40))):
                # The header of the file alone is left: without it there is nothing to read.
                file.seek(chance.randrange(100, end))
                file.write(bytes([chance.randrange(256)]))
        outcome = await read_everything(StorageSettings(dir=folder), events)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        shutil.rmtree(folder)
    print(outcomes)
    assert sum(outcomes.values()) == 25


async def test_damaged_row_is_left_out_counted_found_and_removed(tmp_path: Path) -> None:
    settings = StorageSettings(dir=tmp_path)
    events = await fill(settings)
    connection = sqlite3.connect(tmp_path / "almenara.db")
    connection.execute("UPDATE events SET data = replace(data, 'x', 'y') WHERE sequence = 7")
    connection.execute("UPDATE events SET data = '{\"n\":' WHERE sequence = 8")
    connection.execute("UPDATE events SET data = CAST(x'ff7b' AS TEXT) WHERE sequence = 9")
    connection.execute("UPDATE events SET severity = 99 WHERE sequence = 10")
    connection.execute("UPDATE observations SET body = '{}' WHERE sequence = 301")
    connection.commit()
    connection.close()
    damaged = [7, 8, 9, 10]
    expected = [one for one in sorted(events, reverse=True) if one not in damaged]
    report = check_database(tmp_path)
    assert sorted(report.damaged) == [*damaged, 301]
    assert "sequence 7, 8, 9, 10, 301" in report.describe()
    async with EmbeddedBus(settings) as bus:
        records = await History(bus).events(Filter(), limit=5_000)
        assert [one.sequence for one in records] == expected
        replayed = await collect_records(bus, 0, bus.last_sequence - 5)
        assert len(replayed) == bus.last_sequence - 5
        assert any("could not be read" in one for one in bus.warnings)
        await Resources().rebuild(bus)
    repaired, old = repair_database(tmp_path)
    assert old.name == "almenara.db.damaged"
    assert repaired.events == len(expected)
    assert check_database(tmp_path).is_intact
    async with EmbeddedBus(settings) as bus:
        assert [
            one.sequence for one in await History(bus).events(Filter(), limit=5_000)
        ] == expected
        assert await History(bus).count(Filter(text="pad")) == len(expected)
        assert await bus.load("plugin", "key-300") == b"x" * 500
        last = bus.last_sequence
        await bus.publish([make_event(0), make_event(9_999)], "x")
        assert (bus.counters.deduplicated, bus.last_sequence) == (1, last + 1)


# -- too much of something


async def test_names_without_bound_empty_nothing_and_are_removed_with_their_events(
    tmp_path: Path,
) -> None:
    settings = StorageSettings(
        dir=tmp_path, max_names=1_000, retention_size=3_000_000, retention_interval=0.05
    )
    async with EmbeddedBus(settings) as bus:
        history = History(bus)
        for start in range(0, 12_000, 500):
            await bus.publish(
                [make_event(one, type=f"type.of.{one}", source=f"source-{one}")
                 for one in range(start, start + 500)], "x",
            )  # fmt: skip
        assert any("max_names" in one for one in bus.warnings)
        stored = await history.count_stored()
        assert stored > 2_000, "names must not push events out"
        records = await history.events(Filter(), limit=20_000)
        assert [one.sequence for one in records] == list(range(12_000, 12_000 - len(records), -1))
        for record in records[:5]:
            event = record.signal
            assert isinstance(event, Event)
            for chosen in (Filter(type=event.type), Filter(source=event.source)):
                records = await history.events(chosen)
                assert [one.signal for one in records] == [event]
        assert await history.count(Filter(type="type.of.1199*")) == 11
        assert await history.count(Filter(type="type.of.*")) == await history.count_stored()
        for start in range(20_000, 40_000, 500):
            await bus.publish([make_event(one) for one in range(start, start + 500)], "x")
        async with asyncio.timeout(20):
            while (
                await bus.read(lambda one: one.execute("SELECT count(*) FROM names").fetchone()[0])
                > 10
            ):
                await asyncio.sleep(0.05)


async def test_resources_beyond_the_bound_are_left_out_and_reported(tmp_path: Path) -> None:
    settings = StorageSettings(dir=tmp_path, max_resources=1_000, retention_interval=0.05)
    async with EmbeddedBus(settings) as bus:
        resources = Resources()
        following = asyncio.create_task(resources.follow(bus, 0))
        for start in range(0, 5_000, 500):
            batch = [Resource(kind="pod", name=f"p{one}") for one in range(start, start + 500)]
            await bus.publish([*batch, make_event(start)], "many")
        await bus.publish([Resource(kind="pod", name="other")], "few")
        assert len(await bus.known_resources("many")) == 1_000
        assert await History(bus).count_stored() == 10
        async with asyncio.timeout(10):
            while not any("4,000 new ones were left out" in one for one in bus.warnings):
                await asyncio.sleep(0.02)
        assert any("The source many has 1,000 resources" in one for one in bus.warnings)
        assert bus.counters.resources_dropped == 4_000
        # What is known goes on to be updated, and what is deleted makes way.
        await bus.publish([Resource(kind="pod", name="p1", status="changed")], "many")
        await bus.publish([Resource(kind="pod", name="p2", deleted=True)], "many")
        await bus.publish([Resource(kind="pod", name="p4999")], "many")
        known = {name for _, _, name in await bus.known_resources("many")}
        assert len(known) == 1_000
        assert "p4999" in known
        async with asyncio.timeout(10):
            while resources.sequence < bus.last_sequence:
                await asyncio.sleep(0.01)
        following.cancel()
        assert len(resources.of_kind("pod")) == 1_002
