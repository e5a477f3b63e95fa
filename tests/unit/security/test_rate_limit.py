"""Waits after wrong secrets."""

import pytest

from almenara.security import rate_limit
from almenara.security.rate_limit import FailureLimiter, RefusedSecrets
from almenara.security.trusted_proxies import rate_key

BROWSER = "203.0.113.9"


def test_failures_of_one_ipv6_site_count_together() -> None:
    attempts = FailureLimiter(2)
    for number in range(3):
        attempts.record_failure(rate_key(f"2001:db8:2::{number:x}"))
    assert attempts.remaining_wait(rate_key("2001:db8:2::ffff:1")) > 0
    assert attempts.remaining_wait(rate_key("2001:db8:2:1::1")) == 0
    assert rate_key(BROWSER) == BROWSER
    assert rate_key("not an address") == "not an address"


def test_refused_secrets_are_repeats_for_a_period(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = 100.0
    monkeypatch.setattr(rate_limit.time, "monotonic", lambda: moment)
    refused = RefusedSecrets(5.0)
    assert [refused.is_repeat(each) for each in ("a", "a", "b", "a")] == [False, True, False, True]
    # A period starts with the first refusal: repeats do not extend it.
    moment = 104.9
    assert refused.is_repeat("a")
    moment = 105.0
    assert [refused.is_repeat(each) for each in ("a", "b", "a")] == [False, False, True]
