"""Any panel as of a moment is what the live panel showed at that moment.

A day of the demo is generated on a clock that is moved, and the live panels are recorded at random
moments; afterwards the same panels as of those moments are compared with them, text by text.
`PAST_MOMENTS=200` records that many in a whole day.
"""

import os
import random
import re
from pathlib import Path

import msgspec
import pytest

from almenara.errors import NotFound
from almenara.panels.past import view_at
from almenara.panels.time_window import TimeWindow
from almenara.scope import Grant, build_scope
from almenara.signals import Resource
from support.demo_day import START, open_day

pytestmark = pytest.mark.anyio

MOMENTS = int(os.environ.get("PAST_MOMENTS", "40"))
STEPS = 24 * 60 if MOMENTS >= 200 else MOMENTS * 3
SCOPE = build_scope([Grant(namespaces=("council", "planning"))], access_log=False)
BETWEEN = 30_000_000
"""Microseconds from a step to the moment in the middle before the next."""


def at(moment: int) -> TimeWindow:
    return TimeWindow(mode="moment", until=moment)


async def test_panels_of_the_past_are_what_the_live_ones_were(tmp_path: Path) -> None:
    chance = random.Random(3)
    recorded = {}
    async with open_day(tmp_path) as day:
        chosen_steps = set(chance.sample(range(1, STEPS), MOMENTS))
        for number in range(STEPS):
            await day.step()
            if number not in chosen_steps:
                continue
            panels = day.chosen_panels()
            day.clock.move(0.5)
            moment = day.clock.now()
            scope = SCOPE if number % 2 else None
            view = day.view if scope is None else day.view.within(scope)
            recorded[moment] = panels, scope, await day.render(view, panels)
        compared = blind = 0
        texts = set()
        for moment in chance.sample(sorted(recorded), len(recorded)):
            panels, scope, expected = recorded[moment]
            view = day.view if scope is None else day.view.within(scope)
            past = await view_at(view, at(moment))
            blind += bool(past.past and past.past.blind)
            rendered = await day.render(past, panels)
            differing = [name for name in expected if rendered[name] != expected[name]]
            assert not differing, describe(moment, differing[0], expected, rendered)
            compared += len(rendered)
            texts.update(rendered.values())
        broken = [text for text in texts if "broken-panel" in text]
        assert not broken, broken[0][:600]
        # What is compared differs from moment to moment, and is not empty.
        assert len(texts) > 5 * len(recorded)
        assert blind
    print(f"{compared} panels at {len(recorded)} moments, 0 differ")


def describe(moment: int, name: str, expected: dict[str, str], rendered: dict[str, str]) -> str:
    """The first place where a panel differs."""
    before, after = (re.split(r"(?<=>)", texts[name]) for texts in (expected, rendered))
    place = next(
        (n for n, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1]), -1
    )
    return (
        f"{name} at {moment - START}: live {''.join(before[place : place + 12])!r},"
        f" past {''.join(after[place : place + 12])!r}"
    )


async def test_past_beyond_a_scope_shows_nothing_of_it(tmp_path: Path) -> None:
    async with open_day(tmp_path) as day:
        for _ in range(6):
            await day.step()
        moment = day.clock.now() + 1_000
        day.clock.move(1)
        view = await view_at(day.view.within(SCOPE), at(moment))
        allowed = {"council", "planning"}
        for resource in view.resources.all():
            assert isinstance(resource, Resource)
            assert resource.namespace in allowed or resource.name in allowed
        panels = [pair for pair in day.chosen_panels() if pair[0].plugin == "kubernetes"]
        text = "".join((await day.render(view, [(panel, {}) for panel, _ in panels])).values())
        assert "council" in text
        assert "kube-system" not in text
        assert "monitoring" not in text


async def test_moment_at_which_almenara_did_not_run_is_blind(tmp_path: Path) -> None:
    async with open_day(tmp_path) as day:
        for _ in range(5):
            await day.step()
        await day.recorder.flush()
        stopped = day.clock.now()
        day.clock.move(3_600)
        view = await view_at(day.view, at(day.clock.now()))
        assert view.past is not None
        assert not view.past.was_running
        assert view.past.noted is not None
        assert abs(view.past.noted - stopped) < 1_000_000
        pods = [pod for pod in view.resources.of_kind("kubernetes.pod") if not pod.deleted]
        assert pods
        assert {pod.status for pod in pods} == {"unknown"}


async def test_moment_before_the_stored_past_is_refused(tmp_path: Path) -> None:
    async with open_day(tmp_path) as day:
        await day.step()
        with pytest.raises(NotFound):
            await view_at(day.view, at(START - 1))
        live = await view_at(day.view, TimeWindow(span=60))
        assert live == msgspec.structs.replace(day.view, window=TimeWindow(span=60))
