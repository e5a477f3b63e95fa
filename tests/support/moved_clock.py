"""A clock that tests move."""


class MovedClock:
    """Time stands still until it is moved; nothing may wait on it."""

    def __init__(self, start: int) -> None:
        """`start` is in microseconds since the epoch."""
        self._start, self.passed = start, 0.0

    def move(self, seconds: float) -> None:
        self.passed += seconds

    def now(self) -> int:
        return self._start + round(self.passed * 1_000_000)

    def monotonic(self) -> float:
        return self.passed

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing may wait on this clock")
