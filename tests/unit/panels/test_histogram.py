"""The bars of events over time: each links to exactly what it counts."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from almenara.bus.embedded import EmbeddedBus
from almenara.config import StorageSettings
from almenara.history import Filter, History
from almenara.panels.builtin.histogram import prepare
from almenara.panels.time_window import TimeWindow
from almenara.signals import Event, parse_time
from almenara.units import MINUTE, SECOND

pytestmark = pytest.mark.anyio

START = parse_time("2026-01-05T12:00:00Z")


@pytest.mark.parametrize(
    ("since", "until", "bars"),
    [
        (START + 200 * SECOND, START + 50 * MINUTE + 40 * SECOND, 48),
        (START + 3 * MINUTE, START + 50 * MINUTE, 47),
        (START + 3 * MINUTE + 59 * SECOND, START + 4 * MINUTE + 1 * SECOND, 2),
    ],
)
async def test_each_bar_links_to_what_it_counts(
    since: int, until: int, bars: int, tmp_path: Path
) -> None:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        await bus.publish(
            [
                Event(id=str(number), source="s", type="t", time=START + number * 10 * SECOND)
                for number in range(360)
            ],
            "test",
        )
        history = History(bus)
        view: Any = SimpleNamespace(history=history, window=TimeWindow())
        values = await prepare(view, Filter(since=since, until=until))
        total = 0
        for bar in values["bars"]:
            query = dict(parse_qsl(urlsplit(bar["link"]).query))
            assert await history.count(Filter.from_query(query)) == bar["count"]
            total += bar["count"]
        assert total == values["total"] == await history.count(Filter(since=since, until=until))
        if bars > 2:
            assert len(values["bars"]) == bars


async def test_bars_without_a_range_are_linked_as_a_whole(tmp_path: Path) -> None:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        view: Any = SimpleNamespace(history=History(bus), window=TimeWindow())
        values = await prepare(view, Filter(type="t.*"))
        links = [dict(parse_qsl(urlsplit(bar["link"]).query)) for bar in values["bars"]]
        for link in links:
            assert link["type"] == "t.*"
            assert parse_time(link["until"]) - parse_time(link["since"]) == values["width"] * SECOND
