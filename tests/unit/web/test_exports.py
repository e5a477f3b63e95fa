"""The bound on exports that run at a time."""

import contextlib

import pytest

from almenara.web.exports import ExportLimiter, TooManyExportsError


def test_export_limiter_refuses_beyond_the_limits_and_recovers() -> None:
    limiter = ExportLimiter(per_user=2, total=3)
    with contextlib.ExitStack() as running:
        for user in ("ada", "ada", "grace"):
            running.enter_context(limiter.run(user))
        for user, reason in (("ada", "2 exports of yours"), ("alan", "3 exports are running")):
            with pytest.raises(TooManyExportsError, match=reason) as refused, limiter.run(user):
                pass
            assert refused.value.status_code == 503
            assert refused.value.headers == {"retry-after": "10"}
    with contextlib.ExitStack() as running:
        for user in ("ada", "ada", "alan"):
            running.enter_context(limiter.run(user))
