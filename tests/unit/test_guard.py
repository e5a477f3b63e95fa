from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from almenara.settings import ServerSettings
from almenara.web.guard import host_allowed, origin_allowed, parse_host, parse_origin, refused

OWN = ("watch.example", None)


@pytest.mark.parametrize(
    ("origin", "host", "secure", "allowed", "right"),
    [
        ("http://watch.example", OWN, False, [], True),
        ("https://watch.example", OWN, False, [], True),
        ("https://watch.example", OWN, True, [], True),
        ("http://watch.example", OWN, True, [], False),
        ("https://watch.example:443", OWN, True, [], True),
        ("https://watch.example:8443", OWN, True, [], False),
        ("http://watch.example:8080", ("watch.example", 8080), False, [], True),
        ("http://watch.example:8080", ("watch.example", 8081), False, [], False),
        ("http://watch.example", ("watch.example", 8080), False, [], False),
        ("http://WATCH.example", OWN, False, [], True),
        ("http://evil.example", OWN, False, [], False),
        ("https://evil.example", OWN, True, ["https://ok.example"], False),
        ("https://ok.example", OWN, True, ["https://ok.example"], True),
        ("https://ok.example:444", OWN, True, ["https://ok.example"], False),
        ("http://ok.example", OWN, True, ["https://ok.example"], False),
        ("http://watch.example.evil", OWN, False, [], False),
        ("http://evilwatch.example", OWN, False, [], False),
        ("http://sub.watch.example", OWN, False, [], False),
        ("http://watch.example@evil.example", OWN, False, [], False),
        ("http://evil.example#watch.example", OWN, False, [], False),
        ("http://watch.example/", OWN, False, [], False),
        ("http://watch.example/path", OWN, False, [], False),
        ("http://watch.example?x", OWN, False, [], False),
        ("http://watch.example, http://evil.example", OWN, False, [], False),
        ("http://watch.example http://evil.example", OWN, False, [], False),
        ("null", OWN, False, [], False),
        ("", OWN, False, [], False),
        ("file://", OWN, False, [], False),
        ("ws://watch.example", OWN, False, [], False),
        ("javascript:alert(1)", OWN, False, [], False),
        ("http://", OWN, False, [], False),
        ("http://watch.example:99999", OWN, False, [], False),
        ("http://watch.example:x", OWN, False, [], False),
        ("http://127.0.0.1:8080", ("127.0.0.1", 8080), False, [], True),
        ("http://[::1]:8080", ("[::1]", 8080), False, [], True),
        ("http://localhost:8080", ("127.0.0.1", 8080), False, [], False),
    ],
)
def test_an_origin_is_ours_by_scheme_name_and_port(
    origin: str, host: tuple[str, int | None], secure: bool, allowed: list[str], right: bool
) -> None:
    assert origin_allowed(origin, host, secure, allowed) is right


@given(st.text(max_size=60))
def test_no_text_but_the_own_origin_passes(text: str) -> None:
    if parse_origin(text) not in {
        ("http", "watch.example", 80),
        ("https", "watch.example", 443),
    }:
        assert not origin_allowed(text, OWN, False, [])


@pytest.mark.parametrize(
    ("header", "allowed", "right"),
    [
        ("localhost:8080", [], True),
        ("127.0.0.1:8080", [], True),
        ("10.1.2.3", [], True),
        ("[::1]:80", [], True),
        ("evil.example", [], False),
        ("localhost.evil.example", [], False),
        ("watch.example", ["watch.example"], True),
        ("watch.example:443", ["watch.example"], True),
        ("WATCH.EXAMPLE.", ["watch.example"], True),
        ("a.watch.example", ["watch.example"], False),
        ("a.watch.example", ["*.watch.example"], True),
        ("watch.example", ["*.watch.example"], False),
        ("anything", ["*"], True),
        ("a b", ["*"], False),
        ("", ["*"], False),
        ("a@b", ["*"], False),
        ("a:99999", ["*"], False),
        ("a/b", ["*"], False),
    ],
)
def test_a_host_is_answered_for_by_name_or_address(
    header: str, allowed: list[str], right: bool
) -> None:
    host = parse_host(header)
    settings = ServerSettings(allowed_hosts=allowed)
    assert (host is not None and host_allowed(host[0], settings)) is right


@pytest.mark.parametrize(
    ("forwarded", "origin", "status"),
    [
        ([], b"http://watch.example", None),
        ([b"https"], b"http://watch.example", 403),
        ([b"WSS"], b"http://watch.example", 403),
        ([b"http", b"https"], b"http://watch.example", 403),
        ([b"http"], b"http://watch.example", None),
        ([b"https"], b"https://watch.example", None),
    ],
)
def test_a_page_without_tls_is_not_ours_where_a_proxy_says_that_we_have_it(
    forwarded: list[bytes], origin: bytes, status: int | None
) -> None:
    headers = [(b"host", b"watch.example"), (b"origin", origin)]
    headers += [(b"x-forwarded-proto", it) for it in forwarded]
    scope: Any = {"type": "websocket", "scheme": "ws", "path": "/live", "headers": headers}
    refusal = refused(scope, ServerSettings(allowed_hosts=["watch.example"]))
    assert (refusal.status if refusal else None) == status
