"""Acceptance of alerting over an hour in which a receiver is down, on a clock that is advanced."""

import itertools
import math
import time
from pathlib import Path
from typing import Any

import pytest

from support.alert_scenarios import Box, Host, Receiver, Scenario, Stage, play_all, scenario
from support.alert_scenarios.laboratory import Laboratory
from support.application import Almenara
from support.notification_receivers import Answer, HttpReceiver, Request, SmtpReceiver, accept
from support.wrong_clock import ClockFile

pytestmark = pytest.mark.anyio
OUTAGE: dict[str, Scenario] = {}
HOUR = 3600.0
LONGEST_WAIT = 360.0
"""Seconds after which a retry is due whatever its backoff: the limit of 300, with jitter."""
MARGIN = 2.0
"""Seconds between the moment of an attempt and of its arrival at the receiver, at most."""


class DownReceiver:
    """Refuses everything until it is repaired, and notes when an attempt arrived."""

    def __init__(self) -> None:
        self.attempts: list[float] = []
        self.clock: ClockFile | None = None
        self.is_repaired = False

    def __call__(self, request: Request) -> Answer:
        if self.is_repaired:
            return accept(request)
        assert self.clock is not None
        self.attempts.append(self.clock.monotonic())
        return 503, {}, b"down for maintenance"


def groups(box: Box) -> list[tuple[str, str]]:
    """The name and the status of what each accepted notification is about, in order."""
    return [(body["data"]["group_labels"]["name"], body["data"]["status"]) for body in box.bodies]


def ends(box: Box) -> int:
    return sum(status == "resolved" for _, status in groups(box))


async def read_health(stage: Stage) -> dict[str, Any]:
    listed = await stage.call("GET", "/api/resources?kind=almenara.receiver")
    return next(each for each in listed if each["name"] == stage.name)


@scenario(
    into=OUTAGE,
    receivers={
        "": Receiver(answer=DownReceiver(), options={"fallback": "other"}),
        "other": Receiver(),
    },
    group_by=["name"],
    repeat_interval=10 * HOUR,
)
async def a_receiver_is_down_for_an_hour(stage: Stage) -> None:
    down = stage.box().answer
    assert isinstance(down, DownReceiver)
    clock = down.clock
    assert clock is not None
    started = clock.monotonic()

    async def pass_time() -> None:
        """Let so much time pass that one more attempt is due, and wait for it."""
        before, advanced = len(down.attempts), -math.inf

        def has_attempt() -> bool:
            nonlocal advanced
            # More than once: the wait after an attempt may start only after the clock was advanced.
            if time.monotonic() - advanced > 5:
                advanced = time.monotonic()
                clock.advance(LONGEST_WAIT)
            return len(down.attempts) > before

        await stage.until(has_attempt, "another attempt")

    await stage.fail("a")
    await stage.until(lambda: down.attempts, "the first attempt")
    # Twice: the first time may pass before the failure of that attempt is noted.
    await pass_time()
    await pass_time()
    await stage.until(lambda: ("a", "firing") in groups(stage.box("other")), "the fallback")
    page = (await stage.host.client.get("/alerts/receivers")).text
    assert "Failing since" in page
    assert "status 503" in page

    await stage.fail("b", "c")
    await stage.until(lambda: len(stage.box("other").bodies) == 3, "b and c at the fallback")
    while clock.monotonic() - started < HOUR:
        await pass_time()
        health = await read_health(stage)
        assert (health["status"], health["state"]["waiting"]) == ("failing", 3)
    await stage.recover("b")
    await stage.until(lambda: ("b", "resolved") in groups(stage.box("other")), "the end of b")

    # One attempt after the other, and each wait at least that of the backoff.
    waits = [after - before for before, after in itertools.pairwise(down.attempts)]
    for number, wait in enumerate(waits):
        assert wait > 0.8 * min(2.0 * 2**number, 300.0) - MARGIN, waits
    assert stage.box().bodies == []

    down.is_repaired = True
    clock.advance(LONGEST_WAIT)
    expected = [("a", "firing"), ("b", "resolved"), ("c", "firing")]
    await stage.until(lambda: len(stage.box().bodies) >= len(expected), "what has waited")
    await stage.recover("a", "c")
    await stage.until(lambda: ends(stage.box()) == 3, "the last end")
    await stage.until(lambda: ends(stage.box("other")) == 3, "the last end at the fallback")
    assert groups(stage.box())[:3] == expected
    for part in ("", "other"):
        arrived = groups(stage.box(part))
        assert len(set(arrived)) == len(arrived), f"one came twice: {arrived}"
    page = (await stage.host.client.get("/alerts/receivers")).text
    assert "Failing since" not in page
    assert (await read_health(stage))["status"] == "ready"


async def test_outage_of_a_receiver_loses_and_repeats_nothing(tmp_path: Path) -> None:
    with HttpReceiver() as http, SmtpReceiver() as mail:
        host = Host(Laboratory(tmp_path), http, mail)
        almenara = Almenara(
            tmp_path / "almenara", config=host.configure(list(OUTAGE.values()), fallback_after=300)
        )
        clock = ClockFile(tmp_path)
        almenara.serve = clock.serve(almenara.program)
        for box in host.boxes.boxes.values():
            if isinstance(box.answer, DownReceiver):
                box.answer.clock = clock
        with host.use(almenara):
            await play_all(host, OUTAGE)
