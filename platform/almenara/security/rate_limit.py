"""Rate limits: a token bucket for requests, and growing waits after wrong secrets."""

import time
from collections import OrderedDict
from typing import Final

LARGEST_TABLE: Final = 20_000
"""Keys that are remembered; the least recently used are dropped first."""
LONGEST_WAIT: Final = 900.0
FORGET_AFTER: Final = 3600.0
"""Seconds after its last wrong secret, when the count of a key starts again at 0."""
LARGEST_EXPONENT: Final = 16


class RequestLimiter:
    """Token buckets by key: `rate` requests a second, and `burst` at once."""

    def __init__(self, rate: float, burst: int) -> None:
        self.rate, self.burst = rate, burst
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Remaining requests and the time of the last one, by key."""

    def try_acquire(self, key: str) -> bool:
        """Return whether a request is within the rate, and count it if so."""
        moment = time.monotonic()
        credit, last = self._buckets.get(key, (float(self.burst), moment))
        credit = min(self.burst, credit + (moment - last) * self.rate)
        is_allowed = credit >= 1
        self._buckets[key] = (credit - 1 if is_allowed else credit, moment)
        self._buckets.move_to_end(key)
        if len(self._buckets) > LARGEST_TABLE:
            self._buckets.popitem(last=False)
        return is_allowed


class FailureLimiter:
    """Wrong secrets by key: the first `free` cost nothing, each further one doubles the wait."""

    def __init__(self, free: int) -> None:
        self.free = free
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()
        """Count and the time of the last failure, by key."""

    def remaining_wait(self, key: str) -> float:
        """Return the seconds until the next attempt is allowed; 0 if it is now."""
        count, last = self._failures.get(key, (0, 0.0))
        if count < self.free:
            return 0.0
        pause = min(2.0 ** min(count - self.free, LARGEST_EXPONENT), LONGEST_WAIT)
        return max(last + pause - time.monotonic(), 0.0)

    def record_failure(self, key: str, *, age: float = 0.0) -> int:
        """Count a wrong secret, `age` seconds ago; return how many there are now."""
        count, last = self._failures.get(key, (0, 0.0))
        moment = time.monotonic() - age
        if moment - last > FORGET_AFTER:
            count = 0
        self._failures[key] = (count + 1, moment)
        self._failures.move_to_end(key)
        if len(self._failures) > LARGEST_TABLE:
            self._failures.popitem(last=False)
        return count + 1

    def reset(self, key: str) -> None:
        """Forget the failures of a key after a successful attempt."""
        self._failures.pop(key, None)


class RefusedSecrets:
    """Wrong secrets that were refused a moment ago, by their digests."""

    def __init__(self, period: float) -> None:
        self.period = period
        self._refused: OrderedDict[str, float] = OrderedDict()
        """When each was refused first, the oldest first."""

    def is_repeat(self, digest: str) -> bool:
        """Return whether it was first refused within the period; note it if not."""
        moment = time.monotonic()
        while self._refused and moment - next(iter(self._refused.values())) >= self.period:
            self._refused.popitem(last=False)
        if digest in self._refused:
            return True
        self._refused[digest] = moment
        if len(self._refused) > LARGEST_TABLE:
            self._refused.popitem(last=False)
        return False
