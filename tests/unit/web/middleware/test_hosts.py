import pytest

from almenara.config import ServerSettings
from almenara.security.public_address import parse_host
from almenara.web.middleware.hosts import is_host_allowed


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
def test_host_is_allowed_by_name_or_address(header: str, allowed: list[str], right: bool) -> None:
    host = parse_host(header)
    settings = ServerSettings(allowed_hosts=allowed)
    assert (host is not None and is_host_allowed(host[0], settings)) is right
