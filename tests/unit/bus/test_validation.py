"""Published signals: every field with every wrong type is refused to its publisher alone."""

import asyncio
import itertools
import math
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from almenara.bus.embedded import EmbeddedBus
from almenara.bus.validation import (
    EVENT_FIELDS,
    RESOURCE_FIELDS,
    SAMPLE_FIELDS,
    InvalidSignalError,
    check_signal,
)
from almenara.config import StorageSettings
from almenara.history import Filter, History
from almenara.redaction import RedactionSettings, Redactor
from almenara.signals import Event, Resource, Sample, Severity
from almenara.state.resources import Resources
from support.bus import collect_records, make_event

pytestmark = pytest.mark.anyio


class Hostile:
    """An object whose every method fails."""

    def __repr__(self) -> str:
        raise RuntimeError("this object cannot be shown")

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("this object cannot be compared")

    __hash__ = None  # type: ignore[assignment]


class Text(str):
    """A subclass of text, which SQLite and JSON treat differently."""

    __slots__ = ()


WRONG: tuple[Any, ...] = (
    None, True, 0, -1, 2**70, 1.5, float("nan"), "text", Text("text"), "\ud800", b"bytes", [],
    ["a"], (), {}, {"a": None}, {"a": 1}, {1: "a"}, {None: "a"}, set(), object(), Hostile(), int,
    len, Decimal(1), Severity.WARN, 13, make_event(1), lambda: 1,
)  # fmt: skip
KINDS: tuple[tuple[Callable[..., Any], dict[str, Any], dict[str, Any]], ...] = (
    (Event, {"id": "x", "source": "s", "type": "t", "time": 1, "data": {"a": 1}}, EVENT_FIELDS),
    (Resource, {"kind": "k", "name": "n"}, RESOURCE_FIELDS),
    (Sample, {"kind": "k", "name": "n", "metric": "m", "value": 1.0}, SAMPLE_FIELDS),
)
NOT_SIGNALS: tuple[Any, ...] = (
    None,
    1,
    "abc",
    b"abc",
    {},
    ("kind", "name"),
    object(),
    Hostile(),
    Event,
)
NOT_BATCHES: tuple[Any, ...] = (
    None,
    1,
    "abc",
    b"abc",
    {},
    {"a": 1},
    object(),
    make_event(1),
    iter([]),
)


def accepts(field: str, types: tuple[type, ...], value: Any) -> bool:
    """Whether a value is right for a field, by the definition of the contract."""
    if type(value) not in types:
        return False
    if field == "attributes":
        return all(type(name) is str and type(text) is str for name, text in value.items())
    if field == "state":
        return None not in value
    if field == "time":
        return abs(value) < 2**63
    if field == "value":
        return not math.isnan(value)
    return value != "\ud800"


def generate_matrix() -> list[tuple[Any, str, bool]]:
    """Return every kind of signal with every field replaced by every value."""
    cases: list[tuple[Any, str, bool]] = []
    for make, fields, types in KINDS:
        for (field, allowed), value in itertools.product(types.items(), WRONG):
            signal = make(**{**fields, field: value})
            cases.append((signal, field, accepts(field, allowed, value)))
    return cases


async def test_publish_refuses_every_wrong_field_and_stores_everything_else(
    tmp_path: Path,
) -> None:
    cases = generate_matrix()
    settings = StorageSettings(dir=tmp_path)
    redact = Redactor(RedactionSettings())
    wrong = refused = stored = 0
    async with EmbeddedBus(settings, redact) as bus:
        for number, (signal, field, is_right) in enumerate(cases):
            good = make_event(number, id=f"good-{number}")
            results = await asyncio.gather(
                bus.publish([make_event(number, id=f"beside-{number}"), signal], "bad"),
                bus.publish([good], "good"),
                return_exceptions=True,
            )
            assert results[1] is None, (field, "the other publisher was refused")
            if is_right:
                assert results[0] is None, (field, results[0])
                stored += 1
            else:
                wrong += 1
                assert isinstance(results[0], InvalidSignalError), (field, signal.__class__)
                refused += f"batch[1]: {type(signal).__name__}" in str(results[0])
        for signal in NOT_SIGNALS:
            with pytest.raises(InvalidSignalError, match=r"batch\[0\].*not an Event"):
                await bus.publish([signal], "bad")
        for batch in NOT_BATCHES:
            with pytest.raises(InvalidSignalError, match="a list of signals"):
                await bus.publish(batch, "bad")
        assert bus.failure is None
        assert bus.write_problem is None
        # Each refused batch left nothing, not even the good event in it.
        history = History(bus)
        ids = {it.signal.id for it in await history.events(Filter(origin="bad"), limit=5_000)}  # type: ignore[union-attr]
        assert sum(it.startswith("beside-") for it in ids) == stored
        assert await history.count(Filter(origin="good")) == len(cases)
        end = bus.last_sequence
    async with EmbeddedBus(settings, redact) as bus:
        resources = Resources()
        await resources.rebuild(bus)
        assert resources.all()
        records = await collect_records(bus, 0, end)
        assert [it.sequence for it in records] == list(range(1, end + 1))
        assert bus.decoder.skipped == 0
    assert refused == wrong
    print(
        f"{len(cases)} pairs of a field and one of {len(WRONG)} values: {wrong} refused by name,"
        f" {stored} stored; {len(NOT_SIGNALS)} values instead of a signal and {len(NOT_BATCHES)}"
        " instead of a batch: 0 wrong"
    )


@pytest.mark.parametrize(
    ("signal", "message"),
    [
        (make_event(7, severity="WARN"), "Event '7': severity is 'WARN' (str); it must be of type"),
        (make_event(7, attributes={"a": None}), "attributes['a'] is None"),
        (
            Resource(kind="bad.thing", name="it", status=None),
            "status is None; it must be of type str",
        ),  # type: ignore[arg-type]
        (Resource(kind="jobs.job", name=42), "Resource 'jobs.job' 42: name is 42 (int)"),  # type: ignore[arg-type]
        (Sample(kind="k", name="n", metric="m", value="7"), "Sample 'm' of 'n': value is '7'"),  # type: ignore[arg-type]
    ],
)
def test_check_signal_names_signal_field_and_value(signal: Any, message: str) -> None:
    with pytest.raises(InvalidSignalError) as raised:
        check_signal(signal)
    assert message in str(raised.value)


async def test_save_refuses_values_that_are_not_bytes(tmp_path: Path) -> None:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        for value in WRONG:
            if type(value) is not bytes:
                with pytest.raises(InvalidSignalError, match="text and bytes"):
                    await bus.save("plugin", "key", value)
        await bus.save("plugin", "key", b"value")
        assert await bus.load("plugin", "key") == b"value"


async def test_publish_stores_attributes_as_they_were_when_published(tmp_path: Path) -> None:
    attributes: dict[str, Any] = {"a": "1"}
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        await bus.publish([make_event(1, attributes=attributes)], "x")
        attributes["a"] = None
        (record,) = await collect_records(bus, 0, 1)
        assert record.signal.attributes == {"a": "1"}  # type: ignore[union-attr]
