"""What sources read first: it existed before, and was not created."""

from almenara.panels.first_readings import FirstReadings
from almenara.signals import Resource
from almenara.units import HOUR, SECOND

START = 1_767_225_600_000_000
Change = tuple[int, Resource]


def change(
    seconds: float, kind: str, name: str, origin: str = "one", deleted: bool = False
) -> Change:
    resource = Resource(kind=kind, name=name, origin=origin, time=1, deleted=deleted)
    return START + int(seconds * SECOND), resource


def read(readings: FirstReadings, *changes: Change) -> list[str]:
    readings.accept(changes)
    return sorted(resource.name for resource in readings.resources.values())


def test_first_reading_of_a_kind_ends_after_seconds() -> None:
    readings = FirstReadings(["one"], [("one", "pod")])
    changes = [
        change(0, "pod", "a"), change(4, "pod", "b"), change(9, "pod", "c"),
        change(11, "pod", "d"), change(3600, "pod", "e"),
    ]  # fmt: skip
    assert read(readings, *changes) == ["a", "b", "c"]


def test_first_reading_has_resources_as_they_were_then() -> None:
    readings = FirstReadings(["one"], [("one", "pod")])
    first = change(0, "pod", "a")
    deleted = change(1, "pod", "b", deleted=True)
    assert read(readings, deleted, first, change(2, "pod", "a")) == ["a"]
    assert readings.resources["pod", "", "a"] is first[1]


def test_kind_that_appears_long_after_the_start_of_its_source_is_new() -> None:
    groups = [("one", "pod"), ("one", "job"), ("one", "lease")]
    readings = FirstReadings(["one"], groups)
    changes = [change(0, "pod", "a"), change(50, "lease", "b"), change(70, "job", "c")]
    assert read(readings, *changes) == ["a", "b"]


def test_start_of_a_source_counts_for_all_its_origins() -> None:
    readings = FirstReadings(["ray", "ray/two"], [("ray/a", "job"), ("ray/two/x", "job")])
    changes = [
        change(0, "cluster", "c", "ray"), change(70, "job", "a", "ray/a"),
        change(70, "job", "x", "ray/two/x"),
    ]  # fmt: skip
    assert read(readings, *changes) == ["x"]


def test_source_that_had_started_before_has_no_first_reading() -> None:
    readings = FirstReadings(["one"], [("one", "job")])
    readings.start_sources([change(0, "pod", "a")[1]], START - HOUR)
    assert read(readings, change(1, "job", "b")) == []


def test_reading_is_complete_once_nothing_can_follow() -> None:
    readings = FirstReadings(["one"], [("one", "pod"), ("one", "job")])
    assert not readings.are_complete(START)
    readings.accept([change(0, "pod", "a")])
    assert not readings.are_complete(START + 59 * SECOND)
    assert readings.are_complete(START + 61 * SECOND)
