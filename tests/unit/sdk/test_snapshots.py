"""What differs between resources as they were published and as they are."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, strategies as st

from almenara.sdk import Changes, Snapshots
from almenara.signals import Event, Resource, Severity
from almenara.testing.source_run import MemoryContext

pytestmark = pytest.mark.anyio


def events_of(change: Changes) -> Sequence[Event]:
    before = change.before.status if change.before else None
    after = change.after.status if change.after else None
    thing = change.after or change.before
    assert thing is not None
    return [Event(id=f"{thing.name}/{before}/{after}", source="s", type="changed", time=1)]


def state(**statuses: str) -> list[Resource]:
    return [Resource(kind="k", name=name, status=it) for name, it in statuses.items()]


def test_first_snapshot_publishes_resources_and_no_events() -> None:
    snapshots = Snapshots(events_of)
    first = snapshots.difference(state(a="up", b="up"))
    assert [type(it) for it in first] == [Resource, Resource]
    assert snapshots.difference(state(a="up", b="up")) == []


def test_snapshot_changes_are_published_once_with_their_event() -> None:
    snapshots = Snapshots(events_of)
    snapshots.difference(state(a="up", b="up"))
    signals = snapshots.difference(state(a="down", c="up"))
    assert {(it.name, it.status, it.deleted) for it in signals if isinstance(it, Resource)} == {
        ("a", "down", False), ("c", "up", False), ("b", "up", True),
    }  # fmt: skip
    assert {it.id for it in signals if isinstance(it, Event)} == {
        "a/up/down", "c/None/up", "b/up/None",
    }  # fmt: skip


def test_snapshot_of_watched_resources_differs_once() -> None:
    snapshots = Snapshots()
    (up,) = state(a="up")
    (down,) = state(a="down")
    snapshots.load([up])
    assert snapshots.update(msgspec.structs.replace(up, time=up.time + 5)) == ()
    assert snapshots.update(down) == (down,)
    assert snapshots.get(down.key) == down
    (deleted,) = snapshots.remove(down.key)
    assert isinstance(deleted, Resource)
    assert (deleted.status, deleted.deleted) == ("down", True)
    assert snapshots.remove(down.key) == ()
    assert snapshots.get(down.key) is None


@given(
    st.lists(st.dictionaries(st.sampled_from("abcde"), st.sampled_from(["up", "down"])), max_size=8)
)
def test_snapshot_differences_add_up_to_last_snapshot(
    history: list[dict[str, str]],
) -> None:
    snapshots = Snapshots()
    kept: dict[str, str] = {}
    for statuses in history:
        for it in snapshots.difference(state(**statuses)):
            assert isinstance(it, Resource)
            if it.deleted:
                del kept[it.name]
            else:
                assert kept.get(it.name) != it.status
                kept[it.name] = it.status
        assert kept == statuses


def test_snapshot_marks_what_cannot_be_read_as_unknown() -> None:
    changes: list[tuple[str, str]] = []

    def note(change: Changes) -> list[Event]:
        before, after = change.before, change.after
        changes.append((before.status if before else "", after.status if after else ""))
        return []

    snapshots = Snapshots(note)
    node = Resource(kind="node", name="a", status="ok", state={"size": 1})
    job = Resource(kind="job", name="b", status="ok")
    snapshots.difference([node, job])
    (unknown,) = snapshots.mark_unknown("node a does not answer", 5, [node.key, ("node", "", "x")])
    assert isinstance(unknown, Resource)
    assert (unknown.status, unknown.severity) == ("unknown", Severity.WARN)
    assert unknown.state == {
        "size": 1, "reason": "node a does not answer", "last_status": "ok", "stale_since": 5,
    }  # fmt: skip
    assert snapshots.mark_unknown("node a does not answer", 5, [node.key]) == []
    assert [signal.name for signal in snapshots.mark_unknown("all")] == ["a", "b"]  # type: ignore[union-attr]
    # Known again: as it was, which is no transition, or as it has become meanwhile.
    changes.clear()
    failed = msgspec.structs.replace(job, status="failed")
    signals = snapshots.difference([node, failed])
    assert [signal.status for signal in signals] == ["ok", "failed"]  # type: ignore[union-attr]
    assert changes == [("ok", "failed")]


async def test_snapshot_marks_what_an_earlier_run_has_published_as_unknown(tmp_path: Path) -> None:
    context = MemoryContext(tmp_path)
    context.bus.accept([Resource(kind="node", name="a", status="ok")], "source")
    snapshots = Snapshots()
    await snapshots.restore(context, "source")
    (unknown,) = snapshots.mark_unknown("no answer")
    assert isinstance(unknown, Resource)
    assert (unknown.name, unknown.status) == ("a", "unknown")
    (deleted,) = snapshots.difference([])
    assert isinstance(deleted, Resource)
    assert deleted.deleted


async def test_snapshot_publishes_everything_again_after_a_restore(tmp_path: Path) -> None:
    context = MemoryContext(tmp_path)
    events: list[Changes] = []

    def note(changes: Changes) -> list[Event]:
        events.append(changes)
        return []

    snapshots = Snapshots(note)
    await snapshots.restore(context, "source")
    context.bus.accept(snapshots.difference(state(a="up", b="up")), "source")
    # Another replica has observed a failure, which has ended before this one runs again.
    context.bus.accept([*state(a="down", c="up")], "source")
    await snapshots.restore(context, "source")
    again = snapshots.difference(state(a="up", b="up"))
    published = {signal.name: signal for signal in again if isinstance(signal, Resource)}
    assert {name: each.deleted for name, each in published.items()} == {
        "a": False, "b": False, "c": True,
    }  # fmt: skip
    assert published["a"].status == "up"
    assert events == []


async def test_part_of_a_snapshot_that_cannot_be_read_is_not_missing(tmp_path: Path) -> None:
    changes: list[tuple[str, str]] = []

    def note(change: Changes) -> list[Event]:
        before, after = change.before, change.after
        changes.append((before.status if before else "", after.status if after else ""))
        return []

    node = Resource(kind="node", name="a", status="ok")
    jobs = [Resource(kind="job", name=name, status="ok") for name in "bc"]
    context = MemoryContext(tmp_path)
    context.bus.accept([Resource(kind="job", name="d", status="ok"), *jobs], "source")
    snapshots = Snapshots(note)
    await snapshots.restore(context, "source")
    for _ in range(2):
        keys = snapshots.list_keys("job")
        assert sorted(keys) == [("job", "", "b"), ("job", "", "c"), ("job", "", "d")]
        snapshots.mark_unknown("no answer", keys=keys)
        snapshots.difference([node], unread=keys)
    assert [snapshots.get(key).status for key in keys] == ["unknown"] * 3  # type: ignore[union-attr]
    signals = snapshots.difference([node, *jobs])
    assert sorted((signal.name, signal.deleted) for signal in signals) == [  # type: ignore[union-attr]
        ("b", False), ("c", False), ("d", True),
    ]  # fmt: skip
    # Nothing is known of what they were, so that these are no transitions.
    assert changes == []
    keys = [jobs[0].key]
    snapshots.mark_unknown("no answer", keys=keys)
    assert snapshots.difference([node, jobs[1]], unread=keys) == []
    assert {signal.name for signal in snapshots.difference([node])} == {"b", "c"}  # type: ignore[union-attr]
    assert changes == [("ok", ""), ("ok", "")]


def test_snapshot_ignores_a_new_time_alone() -> None:
    snapshots = Snapshots()
    (first,) = snapshots.difference(state(a="up"))
    assert isinstance(first, Resource)
    assert snapshots.difference([msgspec.structs.replace(first, time=first.time + 5)]) == []
