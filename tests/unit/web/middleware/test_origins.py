"""Which origins may open live pages: the decision itself, on the request as the server has it."""

from typing import Any

import pytest
import structlog

from almenara.config import ServerSettings
from almenara.web.middleware.origins import check_origin
from support.origins import forged

OWN = "watch.example"
ALLOWED = ("https://ok.example", "http://plain.example:8080")


def status(
    origins: list[str], *, host: str = OWN, scheme: str = "ws", forwarded: tuple[str, ...] = ()
) -> int | None:
    """What a WebSocket is refused with; None where it is let in."""
    headers = [(b"host", host.encode("latin-1"))]
    headers += [(b"origin", each.encode("latin-1", "replace")) for each in origins]
    headers += [(b"x-forwarded-proto", each.encode()) for each in forwarded]
    scope: Any = {"type": "websocket", "scheme": scheme, "path": "/live", "headers": headers}
    settings = ServerSettings(allowed_hosts=[OWN, "localhost"], allowed_origins=list(ALLOWED))
    refusal = check_origin(scope, settings)
    return None if refusal is None else refusal.status


LET_IN: tuple[tuple[str, dict[str, Any]], ...] = (
    ("http://watch.example", {}),
    ("https://watch.example", {}),
    ("https://watch.example", {"scheme": "wss"}),
    ("https://watch.example:443", {"scheme": "wss"}),
    ("http://watch.example:80", {}),
    ("http://WATCH.example", {}),
    ("https://watch.example", {"forwarded": ("https",)}),
    ("http://watch.example", {"forwarded": ("http",)}),
    ("http://watch.example:8080", {"host": "watch.example:8080"}),
    ("https://watch.example", {"host": "watch.example:443", "scheme": "wss"}),
    ("http://127.0.0.1:8080", {"host": "127.0.0.1:8080"}),
    ("http://[::1]:8080", {"host": "[::1]:8080"}),
    ("https://ok.example", {}),
    ("https://ok.example:443", {"scheme": "wss"}),
    ("http://plain.example:8080", {"scheme": "wss"}),
)
REFUSED: tuple[tuple[str, dict[str, Any]], ...] = (
    # Another name, and names that only look like ours.
    ("http://evil.example", {}),
    ("https://evil.example", {"scheme": "wss"}),
    ("http://watch.example.evil", {}),
    ("http://watch.example.evil.example", {}),
    ("http://evilwatch.example", {}),
    ("http://sub.watch.example", {}),
    ("http://example", {}),
    ("http://watchexample", {}),
    ("http://watch-example", {}),
    ("http://w\xe4tch.example", {}),
    ("http://xn--watch-.example", {}),
    ("http://watch.example\xad", {}),
    # Another scheme.
    ("http://watch.example", {"scheme": "wss"}),
    ("http://watch.example", {"forwarded": ("https",)}),
    ("http://watch.example", {"forwarded": ("WSS",)}),
    ("http://watch.example", {"forwarded": ("http", "https")}),
    ("ws://watch.example", {}),
    ("wss://watch.example", {}),
    ("ftp://watch.example", {}),
    ("file://", {}),
    ("file://watch.example", {}),
    ("chrome-extension://watch.example", {}),
    ("moz-extension://watch.example", {}),
    ("HTTP://watch.example", {}),
    ("javascript:alert(1)", {}),
    ("data:text/html,x", {}),
    ("blob:http://watch.example", {}),
    ("about:blank", {}),
    # Another port.
    ("https://watch.example:8443", {"scheme": "wss"}),
    ("http://watch.example:8080", {"host": "watch.example:8081"}),
    ("http://watch.example", {"host": "watch.example:8080"}),
    ("http://watch.example:443", {}),
    ("https://watch.example:80", {}),
    ("http://watch.example:080", {}),
    ("http://watch.example:0", {}),
    ("http://watch.example:", {}),
    ("http://watch.example:x", {}),
    ("http://watch.example:99999", {}),
    ("http://watch.example:+80", {}),
    # No origin at all, or more than one.
    ("null", {}),
    ("NULL", {}),
    ("", {}),
    (" ", {}),
    ("http://", {}),
    ("https://", {"scheme": "wss"}),
    ("://watch.example", {}),
    ("watch.example", {}),
    ("//watch.example", {}),
    ("http://watch.example, http://evil.example", {}),
    ("http://evil.example, http://watch.example", {}),
    ("http://watch.example http://evil.example", {}),
    # More than scheme, name and port.
    ("http://watch.example/", {}),
    ("http://watch.example/path", {}),
    ("http://watch.example?x", {}),
    ("http://watch.example#x", {}),
    ("http://watch.example@evil.example", {}),
    ("http://user@watch.example", {}),
    ("http://user:word@watch.example", {}),
    ("http://evil.example#watch.example", {}),
    ("http://evil.example?watch.example", {}),
    ("http://evil.example\\watch.example", {}),
    ("http:\\\\watch.example", {}),
    ("http:/watch.example", {}),
    ("http:watch.example", {}),
    (" http://watch.example", {}),
    ("http://watch.example\t", {}),
    ("http://watch\t.example", {}),
    ("http://watch.example\x00", {}),
    ("http://watch.example%00", {}),
    ("http://watch%2eexample", {}),
    # This machine by another name.
    ("http://localhost:8080", {"host": "127.0.0.1:8080"}),
    ("http://127.0.0.1:8080", {"host": "localhost:8080"}),
    ("http://127.1:8080", {"host": "127.0.0.1:8080"}),
    ("http://2130706433:8080", {"host": "127.0.0.1:8080"}),
    ("http://[::ffff:127.0.0.1]:8080", {"host": "127.0.0.1:8080"}),
    ("http://[::1]:8081", {"host": "[::1]:8080"}),
    # One that is allowed, but not like that.
    ("http://ok.example", {}),
    ("https://ok.example:444", {}),
    ("https://sub.ok.example", {}),
    ("https://plain.example:8080", {}),
    ("http://plain.example", {}),
    ("http://ok.example:8080", {}),
)


def test_origin_is_compared_by_scheme_name_and_port() -> None:
    for origin, more in LET_IN:
        assert status([origin], **more) is None, (origin, more)
    for origin, more in REFUSED:
        assert status([origin], **more) == 403, (origin, more)
    assert status([]) == 403
    assert status(["http://watch.example", "http://watch.example"]) == 403
    print(f"{len(LET_IN)} origins let in, {len(REFUSED) + 2} refused, 0 wrong")


def test_origin_refuses_ten_thousand_forged_ones() -> None:
    seed, count = 20_260, 10_000
    right = frozenset((
        "http://watch.example:8080", "https://watch.example:8080", *ALLOWED,
        "https://ok.example:443",
        # With its last dot a name is the same name.
        "http://watch.example.:8080", "https://watch.example.:8080",
    ))  # fmt: skip
    with structlog.testing.capture_logs() as logs:
        passed = [
            each for each in forged(OWN, 8080, right, seed, count)
            if status([each], host=f"{OWN}:8080") is None
        ]  # fmt: skip
    assert passed == []
    assert len(logs) == count
    print(f"seed {seed}: {count} forged origins, {len(passed)} let in")


@pytest.mark.parametrize(("came", "shown"), [(["https://evil.example"], "https://evil.example"),
                                             (["null"], "null"), ([], None)])  # fmt: skip
def test_origin_refusal_logs_the_expected_ones(came: list[str], shown: str | None) -> None:
    with structlog.testing.capture_logs() as logs:
        assert status(came, host=f"{OWN}:8080") == 403
    assert logs == [{
        "event": "refused a request from another origin", "log_level": "warning",
        "origin": shown,
        "expected": ["http://watch.example:8080", "https://watch.example:8080", *ALLOWED],
    }]  # fmt: skip
