"""Identity headers of a trusted proxy."""

import pytest

from almenara.config import ProxySettings, Secret
from almenara.security.errors import AuthError
from almenara.security.identity import User
from almenara.security.proxy_headers import ProxyHeaders
from almenara.security.request import RequestInfo

SECRET = "secret-of-the-proxy"
GOOD = {"x-forwarded-user": ["ada"], "x-forwarded-groups": ["sre,dev"],
        "x-almenara-proxy-secret": [SECRET]}  # fmt: skip
SPELLINGS = [
    "x_forwarded_user", "x-forwarded_user", "x_forwarded-user", "X_Forwarded_User",
    "x-forwarded-user ", "x_forwarded_groups", "x-forwarded_groups", "x_almenara_proxy_secret",
    "x-almenara_proxy-secret",
]  # fmt: skip


def read_user(headers: dict[str, list[str]], is_trusted: bool = True) -> User | None:
    request_info = RequestInfo(
        headers=headers, address="a", peer="p", is_secure=True, is_local=False
    )
    proxy_headers = ProxyHeaders(ProxySettings(secret=Secret.of(SECRET)), has_client_ca=False)
    return proxy_headers.read_user(request_info, is_trusted=is_trusted)


def smuggled() -> list[tuple[dict[str, list[str]], bool]]:
    cases: list[tuple[dict[str, list[str]], bool]] = [(GOOD, False)]
    for name in SPELLINGS:
        for value in ("root", "", SECRET):
            cases.append(({**GOOD, name: [value]}, True))
            cases.append(({**GOOD, name: [value]}, False))
    cases.extend(({**GOOD, name: [*GOOD[name], "root"]}, True) for name in GOOD)
    wrong: tuple[list[str], ...] = (
        [],
        [""],
        ["wrong"],
        [SECRET[:-1]],
        [SECRET + "x"],
        [SECRET.upper()],
        ["\xff"],
    )
    cases.extend(({**GOOD, "x-almenara-proxy-secret": each}, True) for each in wrong)
    users = ([""], [" "], ["a\nb"], ["a" * 201], ["\x00"])
    cases.extend(({**GOOD, "x-forwarded-user": each}, True) for each in users)
    return cases


def test_proxy_headers_are_accepted_from_the_proxy_only() -> None:
    user = read_user(GOOD)
    assert user is not None
    assert user.groups == ("dev", "sre")
    assert read_user({}) is None
    cases = smuggled()
    assert len(cases) >= 50
    for headers, trusted in cases:
        with pytest.raises(AuthError):
            read_user(headers, trusted)
    print(f"{len(cases)} smuggled identities, 0 believed")


def test_groups_are_split_at_the_configured_separator() -> None:
    headers = {**GOOD, "x-forwarded-groups": ["sre team|dev, ops| "]}
    request_info = RequestInfo(
        headers=headers, address="a", peer="p", is_secure=True, is_local=False
    )
    settings = ProxySettings(secret=Secret.of(SECRET), groups_separator="|")
    user = ProxyHeaders(settings, has_client_ca=False).read_user(request_info, is_trusted=True)
    assert user is not None
    assert user.groups == ("dev, ops", "sre team")
