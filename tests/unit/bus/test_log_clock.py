"""The log's own time: it advances by elapsed time, whatever the system clock does."""

import random

import pytest

from almenara.bus.log_clock import SETTLE, Anchor, LogClock, format_duration
from almenara.units import DAY, HOUR, MINUTE, SECOND

START = 1_800_000_000 * SECOND
YEAR = 365 * DAY


class TwoClocks:
    """A system clock and a monotonic one, each set by the test."""

    def __init__(self, wall: int = START, monotonic: int = 0) -> None:
        self.wall, self.monotonic_time = wall, monotonic

    def now(self) -> int:
        return self.wall

    def monotonic(self) -> float:
        return self.monotonic_time / SECOND

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError

    def elapse(self, microseconds: int) -> None:
        self.wall += microseconds
        self.monotonic_time += microseconds


def test_log_clock_follows_the_system_clock_while_it_runs_evenly() -> None:
    clocks = TwoClocks()
    log_clock = LogClock(None, clocks, "boot")
    for _ in range(1_000):
        clocks.elapse(7 * SECOND)
        assert log_clock.advance() == clocks.wall
        assert log_clock.problem is None


@pytest.mark.parametrize("jump", [MINUTE + SECOND, HOUR, DAY, YEAR, 45 * DAY])
@pytest.mark.parametrize("direction", [1, -1])
def test_log_clock_ignores_a_jump_and_reports_it(jump: int, direction: int) -> None:
    clocks = TwoClocks()
    log_clock = LogClock(None, clocks, "boot")
    clocks.wall += direction * jump
    clocks.elapse(5 * SECOND)
    assert log_clock.advance() == START + 5 * SECOND
    assert log_clock.problem is not None
    assert format_duration(jump) in log_clock.problem
    assert ("ahead" if direction > 0 else "behind") in log_clock.problem
    clocks.wall -= direction * jump
    clocks.elapse(SECOND)
    assert log_clock.advance() == START + 6 * SECOND
    assert log_clock.problem is None


def test_log_clock_never_advances_faster_than_twice_the_elapsed_time() -> None:
    seed = 20
    chance = random.Random(seed)
    clocks = TwoClocks()
    log_clock = LogClock(None, clocks, "boot")
    last = log_clock.advance()
    for _ in range(20_000):
        elapsed = chance.choice((0, 1, SECOND, 10 * SECOND, 5 * MINUTE))
        clocks.elapse(elapsed)
        if chance.random() < 0.05:
            clocks.wall += chance.choice((-1, 1)) * chance.choice((SECOND, MINUTE, DAY, YEAR))
        moment = log_clock.advance()
        assert 0 <= moment - last <= 2 * elapsed, f"seed {seed}"
        last = moment


def test_log_clock_catches_up_with_an_even_clock_after_a_reboot() -> None:
    clocks = TwoClocks(wall=START + 3 * DAY, monotonic=5 * SECOND)
    log_clock = LogClock(Anchor(START, 900 * SECOND, "boot before"), clocks, "boot")
    assert log_clock.advance() == START
    for _ in range(SETTLE // (10 * SECOND)):
        clocks.elapse(10 * SECOND)
        assert log_clock.advance() <= START + SETTLE + 10 * SECOND
    for _ in range(3 * DAY // (10 * SECOND)):
        clocks.elapse(10 * SECOND)
        log_clock.advance()
    assert log_clock.advance() == clocks.wall


def test_log_clock_counts_the_time_between_two_processes_of_one_boot() -> None:
    clocks = TwoClocks(monotonic=100 * SECOND)
    first = LogClock(None, clocks, "boot")
    anchor = first.anchor()
    clocks.elapse(2 * DAY)
    # The wrong date at the second start is of no importance.
    clocks.wall += YEAR
    assert LogClock(anchor, clocks, "boot").advance() == START + 2 * DAY


@pytest.mark.parametrize(
    ("duration", "text"),
    [(YEAR, "365 days"), (DAY, "1 day"), (2 * HOUR, "2 hours"), (90, "less than a second")],
)
def test_format_duration_uses_the_largest_unit(duration: int, text: str) -> None:
    assert format_duration(duration) == text
