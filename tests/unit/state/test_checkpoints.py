"""Checkpoints: resources as of any moment, compared with plain dictionaries."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from almenara.bus import Record
from almenara.bus.embedded import EmbeddedBus
from almenara.config import CheckpointSettings, StorageSettings
from almenara.errors import Unavailable
from almenara.scope import Grant, build_scope
from almenara.signals import Resource
from almenara.state.checkpoints import DATABASE
from almenara.state.recorder import StateRecorder
from almenara.state.resources import Resources
from support.moved_clock import MovedClock

pytestmark = pytest.mark.anyio

START = 1_767_225_600_000_000


def make_pod(name: str, status: str = "Running", **fields: object) -> Resource:
    return Resource(kind="pod", namespace="shop", name=name, status=status, time=1, **fields)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def recording(
    folder: Path, clock: MovedClock, chosen: CheckpointSettings | None = None
) -> AsyncIterator[tuple[StateRecorder, Resources]]:
    async with StateRecorder(folder, chosen or CheckpointSettings(), clock) as recorder:
        yield recorder, Resources(recorder=recorder)


ACTIONS = st.lists(
    st.one_of(
        st.tuples(
            st.just("put"), st.sampled_from("abc"), st.sampled_from(("ok", "failed")),
            st.booleans(),
        ),
        st.tuples(st.sampled_from(("flush", "checkpoint", "restart"))),
        st.tuples(st.just("move"), st.integers(1, 100)),
    ),
    max_size=25,
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(actions=ACTIONS)
def test_state_at_any_moment_is_what_was_known_then(actions: list[tuple[object, ...]]) -> None:
    asyncio.run(compare_with_dictionaries(actions))


async def compare_with_dictionaries(actions: list) -> None:  # type: ignore[type-arg]
    clock = MovedClock(START)
    current: dict[str, str] = {}
    past: list[tuple[int, dict[str, str]]] = []
    remaining, sequence = list(actions), 0
    with tempfile.TemporaryDirectory() as folder:
        while True:
            async with recording(Path(folder), clock) as (recorder, resources):
                if past:
                    state = await recorder.restore()
                    assert state is not None
                    # Behind it are signals that changed nothing.
                    assert state.sequence <= sequence
                    resources._fill(state.resources)
                else:
                    await recorder.checkpoint([])
                while remaining and remaining[0] != ("restart",):
                    match remaining.pop(0):
                        case ("put", name, status, deleted):
                            clock.move(1)
                            sequence += 1
                            pod = make_pod(name, status, deleted=deleted)
                            resources.accept([Record(sequence, pod)])
                            if deleted:
                                current.pop(name, None)
                            else:
                                current[name] = status
                        case ("flush",):
                            await recorder.flush()
                        case ("checkpoint",):
                            await recorder.checkpoint(resources.present())
                        case ("move", seconds):
                            clock.move(seconds)
                    past.append((clock.now(), dict(current)))
                for moment, expected in past:
                    match = await recorder.read_at(moment)
                    assert match is not None
                    assert {key[2]: pod.status for key, pod in match.items()} == expected
            if not remaining:
                return
            remaining.pop(0)


async def test_start_continues_from_the_checkpoint_and_the_log(tmp_path: Path) -> None:
    clock = MovedClock(START)
    async with (
        EmbeddedBus(StorageSettings(dir=tmp_path)) as bus,
        recording(tmp_path, clock) as (recorder, resources),
    ):
        await bus.publish([make_pod("old"), make_pod("gone")], "test")
        await resources.rebuild(bus)
        await recorder.checkpoint(resources.present())
        # Neither changes nor a checkpoint have these.
        await bus.publish([make_pod("new"), make_pod("gone", deleted=True)], "test")
        # More observations than are read at a start.
        await bus.publish([make_pod("busy", str(number)) for number in range(4_999)], "test")
        restarted = Resources(recorder=recorder)
        await restarted.rebuild(bus)
        assert [pod.name for pod in restarted.of_kind("pod") if not pod.deleted] == ["busy", "old"]


async def test_restored_resources_of_sources_that_no_longer_exist_are_removed() -> None:
    resources = Resources()
    origins = ("nats", "nats/eu", "ray/a", "ray/b", "almenara.alerting", "almenara/access")
    resources.accept(
        [Record(1, make_pod(origin.replace("/", "-"), origin=origin)) for origin in origins]
    )
    resources.retain_sources({"nats", "ray/b"})
    assert [pod.origin for pod in resources.all()] == [
        "almenara/access", "almenara.alerting", "nats", "nats/eu", "ray/b",
    ]  # fmt: skip


async def test_change_after_a_restart_with_an_earlier_clock_is_stored(tmp_path: Path) -> None:
    async with recording(tmp_path, MovedClock(START)) as (recorder, resources):
        resources.accept([Record(1, make_pod("a"))])
        await recorder.checkpoint(resources.present())
    async with recording(tmp_path, MovedClock(START - 10**9)) as (recorder, resources):
        await recorder.restore()
        resources.accept([Record(2, make_pod("a", "failed"))])
        await recorder.flush()
    async with recording(tmp_path, MovedClock(START)) as (recorder, _):
        state = await recorder.restore()
        assert state is not None
        assert [pod.status for pod in state.resources.values()] == ["failed"]
        assert state.sequence == 2


async def test_past_is_limited_to_the_scope(tmp_path: Path) -> None:
    clock = MovedClock(START)
    async with recording(tmp_path, clock) as (recorder, resources):
        resources.accept(
            [Record(1, make_pod("a", origin="one")), Record(2, make_pod("b", origin="two"))]
        )
        await recorder.checkpoint(resources.present())
        scope = build_scope([Grant(sources=("two",))], access_log=False)
        past = await resources.within(scope).at(clock.now() + 1_000)
        assert past is not None
        assert [pod.name for pod in past.all()] == ["b"]
        assert await resources.at(START - 1) is None


async def test_unchanged_resource_is_not_recorded(tmp_path: Path) -> None:
    async with recording(tmp_path, MovedClock(START)) as (recorder, resources):
        pod = make_pod("a")
        resources.accept([Record(1, pod), Record(2, Resource(**{**fields_of(pod), "time": 9}))])
        assert len(recorder._pending) == 1


def fields_of(resource: Resource) -> dict[str, object]:
    return {name: getattr(resource, name) for name in resource.__struct_fields__}


async def test_checkpoints_beyond_age_and_size_are_removed(tmp_path: Path) -> None:
    clock = MovedClock(START)
    chosen = CheckpointSettings(retention_age=100.0)
    async with recording(tmp_path, clock, chosen) as (recorder, resources):
        for number in range(30):
            clock.move(10)
            resources.accept([Record(number + 1, make_pod("a", str(number)))])
            await recorder.flush()
            await recorder.checkpoint(resources.present())
        for ago in range(0, 100, 10):
            past = await resources.at(clock.now() - ago * 1_000_000 + 5)
            assert past is not None
            assert [pod.status for pod in past.all()] == [str(29 - ago // 10)]
        assert await resources.at(clock.now() - 150_000_000) is None


async def test_damaged_checkpoints_are_set_aside_and_start_again(tmp_path: Path) -> None:
    clock = MovedClock(START)
    async with recording(tmp_path, clock) as (recorder, resources):
        resources.accept([Record(1, make_pod("a"))])
        await recorder.checkpoint(resources.present())
    data = bytearray((tmp_path / DATABASE).read_bytes())
    data[100:4_096] = b"\xff" * 3_996
    (tmp_path / DATABASE).write_bytes(data)
    async with StateRecorder(tmp_path, CheckpointSettings(), clock) as recorder:
        assert "set aside" in recorder.warnings[0]
        resources = Resources(recorder=recorder)
        resources.accept([Record(2, make_pod("b"))])
        await recorder.flush()
        await recorder.checkpoint(resources.present())
        assert recorder.problem is None
        past = await resources.at(clock.now() + 10)
        assert past is not None
        assert [pod.name for pod in past.all()] == ["b"]


async def test_past_without_a_recorder_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        await Resources().at(START)
