"""The sample store under faults: killed, damaged, without space. The bus is never affected."""

import asyncio
import contextlib
import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from almenara.bus.embedded import EmbeddedBus
from almenara.config import SampleSettings, StorageSettings
from almenara.signals import Sample, now
from almenara.state.resources import Resources
from almenara.state.sample_history import SampleHistory, SeriesMatch
from almenara.state.sample_schema import DATABASE
from almenara.state.sample_store import SampleStore
from almenara.units import HOUR, MILLISECOND, SECOND
from support import sample_load
from support.disks import small_disk
from support.seeds import choose_seed
from support.servers import wait_until

pytestmark = pytest.mark.anyio

KILLS = int(os.environ.get("SAMPLE_STORE_KILLS", "6"))


@contextlib.asynccontextmanager
async def running(
    folder: Path, store_folder: Path | None = None
) -> AsyncIterator[tuple[EmbeddedBus, SampleStore, Resources]]:
    async with (
        EmbeddedBus(StorageSettings(dir=folder)) as bus,
        SampleStore(store_folder or folder, SampleSettings(), bus) as store,
    ):
        resources, after = Resources(store), bus.last_sequence
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(resources.follow(bus, after)),
                group.create_task(store.run()),
            ]
            try:
                async with asyncio.timeout(60):
                    await store.caught_up.wait()
                yield bus, store, resources
            finally:
                for task in tasks:
                    task.cancel()


async def publish(bus: EmbeddedBus, resources: Resources, times: range, value: float = 1.0) -> None:
    await bus.publish(
        [Sample(kind="pod", name="web", metric="cpu", value=value, time=time) for time in times],
        "test",
    )
    async with asyncio.timeout(20):
        while resources.sequence < bus.last_sequence:
            await asyncio.sleep(0.001)


async def read_all(
    store: SampleStore, resources: Resources, since: int
) -> dict[str, list[tuple[int, float]]]:
    """Every stored sample by the name of its series, times in milliseconds."""
    until = now() // MILLISECOND + 60_000
    samples: dict[str, list[tuple[int, float]]] = {}
    history = SampleHistory(store, resources)
    step = 3_600_000
    for first in range(since // MILLISECOND, until, step):
        async for group in history.evaluate(
            SeriesMatch(),
            lambda rollups, width: (width, rollups),
            since=first,
            until=min(first + step, until),
            step=1,
            moment=now() // MILLISECOND,
        ):
            for name, (width, rollups) in group:
                assert width == 0
                samples.setdefault(name.name, []).extend(
                    zip(rollups.times, rollups.totals, strict=True)
                )
    return samples


async def test_kills_lose_and_double_no_sample(tmp_path: Path) -> None:
    seed = choose_seed()
    chance, start = random.Random(seed), (now() - 10 * HOUR) // SECOND * SECOND
    for _ in range(KILLS):
        with (tmp_path / "load.log").open("a+b") as log:
            lines = (tmp_path / "load.log").read_bytes().count(b"\n")
            process = subprocess.Popen(
                [sys.executable, sample_load.__file__, tmp_path, str(start)],
                stdout=log, stderr=log,
            )  # fmt: skip
            try:
                wait_until(
                    lambda lines=lines: (
                        (tmp_path / "load.log").read_bytes().count(b"\n") > lines + 2
                    ),
                    "samples", 60,
                )  # fmt: skip
                await asyncio.sleep(chance.uniform(0, 0.4))
            finally:
                process.kill()
                process.wait()
    async with running(tmp_path) as (bus, store, resources):
        bodies = await bus.read(
            lambda connection: connection.execute("SELECT count(*) FROM observations").fetchone()
        )
        stored = await read_all(store, resources, start)
        per_series = bodies[0] // sample_load.SERIES
        print("samples of each series", per_series)
        assert per_series >= KILLS * 40
        interval = sample_load.INTERVAL // MILLISECOND
        assert stored == {
            f"web-{each}": [
                (start // MILLISECOND + number * interval, float(number * 7 + each))
                for number in range(per_series)
            ]
            for each in range(sample_load.SERIES)
        }


async def test_damaged_store_is_set_aside_and_filled_again_from_the_log(tmp_path: Path) -> None:
    first = now() - HOUR
    async with running(tmp_path) as (bus, store, resources):
        await publish(bus, resources, range(first, first + 600 * SECOND, SECOND))
        await store.flush()
    data = bytearray((tmp_path / DATABASE).read_bytes())
    data[100:8_192] = random.Random(1).randbytes(8_092)
    (tmp_path / DATABASE).write_bytes(data)
    async with running(tmp_path) as (bus, store, resources):
        moment = now()
        await publish(bus, resources, range(moment, moment + 1), 2.0)
        await store.flush()
        await store.maintain()
        (aside,) = tmp_path.glob(f"{DATABASE}.damaged-*")
        assert any(str(aside) in warning for warning in resources.warnings)
        stored = await read_all(store, resources, first)
        assert len(stored["web"]) == 601
        assert bus.write_problem is None


async def test_damage_while_running_is_noticed_by_a_query(tmp_path: Path) -> None:
    first = now() - HOUR
    async with running(tmp_path) as (bus, store, resources):
        for start in range(0, 60, 10):
            await publish(
                bus, resources, range(first + start * SECOND, first + (start + 10) * SECOND, SECOND)
            )
            await store.flush()
        await store.read(lambda connection: connection.execute("SELECT 1").fetchone())
        # Pages in the cache hide the damage: a new store opens what is on the disk.
    data = bytearray((tmp_path / DATABASE).read_bytes())
    for page in range(2, len(data) // 8192):
        data[page * 8192 : page * 8192 + 64] = b"\xff" * 64
    (tmp_path / DATABASE).write_bytes(data)
    async with running(tmp_path) as (_, store, resources):
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(Exception):
                    if len((await read_all(store, resources, first)).get("web", [])) == 60:
                        break
                await store.maintain()
        assert list(tmp_path.glob(f"{DATABASE}.damaged-*"))


async def test_damaged_chunk_is_missing_alone_and_is_reported(tmp_path: Path) -> None:
    first = now() - 5 * HOUR
    async with running(tmp_path) as (bus, store, resources):
        await publish(bus, resources, range(first, first + 4 * HOUR, 10 * SECOND))
        await store.flush()
        connection = sqlite3.connect(tmp_path / DATABASE)
        (total,) = connection.execute("SELECT count(*) FROM fresh").fetchone()
        connection.execute(
            "UPDATE fresh SET body = CAST(x'00' || substr(body, 2) AS BLOB)"
            " WHERE key = (SELECT min(key) FROM fresh)"
        )
        connection.commit()
        connection.close()
        assert total >= 2
        await store.maintain()
        stored = await read_all(store, resources, first)
        assert 0 < len(stored["web"]) < 1_440
        assert any("1 chunks of samples were damaged" in text for text in store.warnings)


async def test_store_without_space_waits_in_memory_and_loses_nothing(tmp_path: Path) -> None:
    async with small_disk(tmp_path / "disk", "2m") as disk:
        first = now() - HOUR
        async with running(tmp_path / "var", disk) as (bus, store, resources):
            await publish(bus, resources, range(first, first + 100 * SECOND, SECOND))
            await store.flush()
            filler = disk / "filler"
            with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(b"\0" * 4096)
            times = range(first + 100 * SECOND, first + 200 * SECOND, SECOND)
            chance = random.Random(2)
            for time in times:
                await publish(bus, resources, range(time, time + 1), chance.random())
            for name in range(2_000):
                await bus.publish(
                    [Sample(kind="pod", name=f"n{name}", metric="cpu", value=1.0, time=first)], "x"
                )
            async with asyncio.timeout(20):
                while resources.sequence < bus.last_sequence:
                    await asyncio.sleep(0.001)
            await store.flush()
            assert store.report.problem is not None
            assert "events are not affected" in store.report.problem
            assert bus.write_problem is None
            assert len((await read_all(store, resources, first))["web"]) == 200
            filler.unlink()
            await store.flush()
            assert store.report.problem is None
            assert store.pending == 0
            assert len((await read_all(store, resources, first))["web"]) == 200
