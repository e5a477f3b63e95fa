"""How often somebody may try: requests by a rate, wrong secrets with longer and longer waits."""

import time
from collections import OrderedDict
from typing import Final

REMEMBERED: Final = 20_000
LONGEST_WAIT: Final = 900.0
FORGOTTEN_AFTER: Final = 3600.0


class Rates:
    """Requests of each key, by a rate and a burst; the least recent keys are forgotten first."""

    def __init__(self, rate: float, burst: int) -> None:
        self.rate, self.burst = rate, burst
        self._credit: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, key: str) -> bool:
        """Whether another request of a key is in order; it counts where it is."""
        moment = time.monotonic()
        credit, last = self._credit.get(key, (float(self.burst), moment))
        credit = min(self.burst, credit + (moment - last) * self.rate)
        allowed = credit >= 1
        self._credit[key] = (credit - 1 if allowed else credit, moment)
        self._credit.move_to_end(key)
        if len(self._credit) > REMEMBERED:
            self._credit.popitem(last=False)
        return allowed


class Attempts:
    """Wrong secrets of each key: some are free, then each doubles the wait."""

    def __init__(self, free: int) -> None:
        self.free = free
        self._failed: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait(self, key: str) -> float:
        """Seconds until a key may try again; 0 where it may now."""
        count, last = self._failed.get(key, (0, 0.0))
        if count < self.free:
            return 0.0
        pause = min(2.0 ** min(count - self.free, 16), LONGEST_WAIT)
        return max(last + pause - time.monotonic(), 0.0)

    def failed(self, key: str) -> None:
        """Note a wrong secret."""
        count, last = self._failed.get(key, (0, 0.0))
        moment = time.monotonic()
        if moment - last > FORGOTTEN_AFTER:
            count = 0
        self._failed[key] = (count + 1, moment)
        self._failed.move_to_end(key)
        if len(self._failed) > REMEMBERED:
            self._failed.popitem(last=False)

    def succeeded(self, key: str) -> None:
        """Forget what was wrong before."""
        self._failed.pop(key, None)
