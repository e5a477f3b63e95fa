"""A dashboard is polled in proportion to the time that its answers take."""

import pytest

from almenara.clock import CLOCK, SystemClock
from almenara_ray.poller import LONGEST_PAUSE, pause

pytestmark = pytest.mark.anyio


class RecordingClock(SystemClock):
    """A clock that stands at a time and records how long it is waited on."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.waits: list[float] = []

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


@pytest.mark.parametrize(
    ("took", "least", "most"),
    [
        (0.0, 0.9, 1.1),
        (0.05, 0.85, 1.05),
        (2.0, 6.0, 6.0),
        (5.0, 15.0, 15.0),
        (40.0, LONGEST_PAUSE, LONGEST_PAUSE),
    ],
)
async def test_pause_leaves_a_slow_dashboard_idle_most_of_the_time(
    took: float, least: float, most: float
) -> None:
    clock = RecordingClock(took)
    CLOCK.set(clock)
    await pause(1.0, started=0.0, busy=took)
    (wait,) = clock.waits
    assert least <= wait <= most
