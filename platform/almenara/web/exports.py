"""The bound on exports that run at a time."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from http import HTTPStatus
from typing import Final

from litestar.exceptions import HTTPException

RETRY_AFTER: Final = 10
"""Seconds after which a client should retry an export that was refused."""


class TooManyExportsError(HTTPException):
    """As many exports are running as may run at a time."""

    status_code = HTTPStatus.SERVICE_UNAVAILABLE


class ExportLimiter:
    """Bounds the exports that run at a time: those of one user, and all together."""

    def __init__(self, per_user: int = 2, total: int = 8) -> None:
        self.per_user, self.total = per_user, total
        self._running: Counter[str] = Counter()

    @contextlib.contextmanager
    def run(self, user: str) -> Iterator[None]:
        """Count an export while it runs. Raises `TooManyExportsError` at a limit."""
        if self._running[user] >= self.per_user:
            raise self._refuse(f"{self.per_user} exports of yours are running")
        if self._running.total() >= self.total:
            raise self._refuse(f"{self.total} exports are running")
        self._running[user] += 1
        try:
            yield
        finally:
            self._running[user] -= 1
            # A user without an export takes no memory.
            self._running += Counter()

    def _refuse(self, reason: str) -> TooManyExportsError:
        return TooManyExportsError(
            detail=f"{reason}, the most at a time. Retry after one of them has ended.",
            headers={"retry-after": str(RETRY_AFTER)},
        )
