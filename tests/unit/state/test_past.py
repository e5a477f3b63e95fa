"""The past of resources, of the log and of samples, as of moments."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from almenara.bus import Record
from almenara.bus.embedded import EmbeddedBus
from almenara.config import CheckpointSettings, SampleSettings, StorageSettings
from almenara.signals import Resource, Sample
from almenara.state.recorder import StateRecorder
from almenara.state.resources import Resources
from almenara.state.sample_store import SampleStore
from almenara.units import MILLISECOND, SECOND
from support.moved_clock import MovedClock

pytestmark = pytest.mark.anyio

START = 1_767_225_600_000_000


def make_pod(name: str, status: str = "Running") -> Resource:
    return Resource(kind="pod", namespace="shop", name=name, status=status, time=1, origin="one")


@contextlib.asynccontextmanager
async def recording(folder: Path, clock: MovedClock) -> AsyncIterator[StateRecorder]:
    async with StateRecorder(folder, CheckpointSettings(), clock) as recorder:
        yield recorder


async def test_notes_have_how_far_the_log_was_and_how_the_sources_were(tmp_path: Path) -> None:
    clock = MovedClock(START)
    moments = []
    async with recording(tmp_path, clock) as recorder:
        await recorder.checkpoint([])
        assert recorder.earliest == START
        for number in range(1, 31):
            clock.move(0.25)
            recorder.accept([], number)
            if number % 10 == 5:
                recorder.note_sources([{"name": "one", "status": f"status-{number}"}])
            if number % 7 == 0:
                await recorder.flush()
            moments.append((clock.now(), number))
    # After a restart as before it.
    async with recording(tmp_path, clock) as recorder:
        for moment, number in moments:
            for later in (moment, moment + 200_000):
                (note,) = await recorder.read_notes(later, later)
                assert note.sequence == number
                expected = (number + 5) // 10 * 10 - 5
                assert note.sources == (
                    [{"name": "one", "status": f"status-{expected}"}] if expected > 0 else []
                )
            assert await recorder.time_of(number) == moment
        assert await recorder.time_of(99) is None
        between = await recorder.read_notes(moments[4][0], moments[9][0])
        assert [note.sequence for note in between] == [5, 6, 7, 8, 9, 10]
        assert await recorder.read_notes(START - 1, START - 1) == []


async def test_of_many_batches_in_a_slot_of_time_the_last_is_noted(tmp_path: Path) -> None:
    clock = MovedClock(START)
    async with recording(tmp_path, clock) as recorder:
        for number in range(1, 101):
            recorder.accept([], number)
            clock.move(0.002)
        notes = await recorder.read_notes(0, clock.now())
        assert [note.sequence for note in notes] == list(range(10, 101, 10))


async def test_state_near_one_in_memory_is_the_same_as_from_the_database(tmp_path: Path) -> None:
    clock = MovedClock(START)
    async with recording(tmp_path, clock) as recorder:
        resources = Resources(recorder=recorder)
        await recorder.checkpoint([])
        for number in range(1, 40):
            clock.move(1)
            deleted = number % 4 == 3
            pod = Resource(kind="pod", name=f"p{number % 5}", status=str(number), deleted=deleted)
            resources.accept([Record(number, pod)])
            if number % 6 == 0:
                await recorder.flush()
            if number == 20:
                await recorder.checkpoint(resources.present())
        fresh = Resources(recorder=recorder)
        for seconds in (3, 4, 9, 19, 22, 23, 38, 5, 39, 12, 30, 2, 25):
            moment = START + seconds * SECOND + 500
            expected = await recorder.read_at(moment)
            past = await fresh.at(moment)
            assert past is not None
            assert expected is not None
            assert {pod.key: pod for pod in past.all()} == expected
            again = await fresh.at(moment)
            assert again is not None
            assert again.all() == past.all()


async def test_database_of_the_first_version_is_migrated(tmp_path: Path) -> None:
    import sqlite3

    clock = MovedClock(START)
    async with recording(tmp_path, clock) as recorder:
        await recorder.checkpoint([make_pod("a")])
    with contextlib.closing(sqlite3.connect(tmp_path / "resources.db")) as database:
        database.executescript("DROP TABLE notes; PRAGMA user_version = 1;")
    async with recording(tmp_path, clock) as recorder:
        assert recorder.problem is None
        assert await recorder.read_notes(clock.now(), clock.now()) == []
        state = await recorder.read_latest()
        assert state is not None
        assert [pod.name for pod in state.resources.values()] == ["a"]


async def test_sample_store_of_the_first_version_is_migrated(tmp_path: Path) -> None:
    import sqlite3

    clock = MovedClock(START)
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        for part, value in enumerate((1.0, 2.0)):
            async with SampleStore(tmp_path, SampleSettings(), bus, clock=clock) as store:
                await store._catch_up()
                sample = Sample(kind="pod", name="a", metric="cpu", value=value, time=clock.now())
                store.accept([Record(part + 1, sample)], part + 1)
            if part == 0:
                with contextlib.closing(sqlite3.connect(tmp_path / "samples.db")) as database:
                    database.executescript(
                        "ALTER TABLE flushes DROP COLUMN first; PRAGMA user_version = 1;"
                    )
            clock.move(60)
        async with (
            SampleStore(tmp_path, SampleSettings(), bus, clock=clock) as store,
            recording(tmp_path, clock) as recorder,
        ):
            await recorder.checkpoint([])
            past = await Resources(store, recorder).at(clock.now() + SECOND)
            assert past is not None
            seen = past.misses
            await past.prefetch([("pod", "", "a")], ["cpu"])
            assert past.latest("pod", "", "a", "cpu") == 2.0
            # A panel that prefetched all it reads is not prepared again.
            assert not await past.load_missing(seen)
            assert [value for _, value in past.series("pod", "", "a", "cpu")] == []
            assert await past.load_missing(seen)
            assert [value for _, value in past.series("pod", "", "a", "cpu")] == [1.0, 2.0]


async def test_samples_of_the_past_are_read_once_they_are_needed(tmp_path: Path) -> None:
    clock = MovedClock(START)
    async with (
        EmbeddedBus(StorageSettings(dir=tmp_path)) as bus,
        SampleStore(tmp_path, SampleSettings(), bus, clock=clock) as store,
        recording(tmp_path, clock) as recorder,
    ):
        await store._catch_up()
        resources = Resources(store, recorder)
        await recorder.checkpoint([])
        sequence = 0
        for step in range(200):
            clock.move(60)
            signals = [make_pod("a"), *([make_pod("b")] if step == 50 else [])]
            samples = [
                Sample(kind="pod", namespace="shop", name=name, metric="cpu", value=float(step),
                       time=clock.now(), origin="one")
                for name in ("a", "b") if name == "a" or step > 50
            ]  # fmt: skip
            batch = []
            for signal in (*signals, *samples):
                sequence += 1
                batch.append(Record(sequence, signal))
            resources.accept(batch)
            if step in (30, 150):
                await store.flush()
                await store.maintain()
        for step in (0, 40, 100, 130, 199):
            past = await resources.at(START + (step + 1) * 60 * SECOND + MILLISECOND)
            assert past is not None
            reads = 0
            while True:
                seen = past.misses
                names = [pod.name for pod in past.with_metric("cpu")]
                points = past.series("pod", "shop", "a", "cpu")
                latest = past.latest("pod", "shop", "a", "cpu")
                if not await past.load_missing(seen):
                    break
                reads += 1
            assert 1 <= reads <= 2
            assert names == (["a", "b"] if step > 50 else ["a"])
            assert latest == float(step)
            assert [value for _, value in points] == [
                float(number) for number in range(max(step - 119, 0), step + 1)
            ]
            seen = past.misses
            assert past.metrics(make_pod("a")) == {}
            assert await past.load_missing(seen)
            assert past.metrics(make_pod("a")) == {"cpu": float(step)}
