"""Waits after wrong secrets."""

from almenara.security.rate_limit import FailureLimiter
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
