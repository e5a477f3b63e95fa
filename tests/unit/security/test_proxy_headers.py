"""Identity headers of a trusted proxy."""

import pytest

from almenara.config import ProxySettings, Secret
from almenara.security.proxy_headers import Proxying
from almenara.security.request import Refused, RequestInfo

SECRET = "of-the-proxy-and-nobody-else"
GOOD = {"x-forwarded-user": ["ada"], "x-forwarded-groups": ["sre,dev"],
        "x-almenara-proxy-secret": [SECRET]}  # fmt: skip
SPELLINGS = [
    "x_forwarded_user", "x-forwarded_user", "x_forwarded-user", "X_Forwarded_User",
    "x-forwarded-user ", "x_forwarded_groups", "x-forwarded_groups", "x_almenara_proxy_secret",
    "x-almenara_proxy-secret",
]  # fmt: skip


def asked(headers: dict[str, list[str]], trusted: bool = True) -> object:
    asking = RequestInfo(headers=headers, address="a", peer="p", secure=True, local=False)
    proxying = Proxying(ProxySettings(secret=Secret.of(SECRET)), certified=False)
    return proxying.person(asking, trusted=trusted)


def smuggled() -> list[tuple[dict[str, list[str]], bool]]:
    cases: list[tuple[dict[str, list[str]], bool]] = [(GOOD, False)]
    for name in SPELLINGS:
        for value in ("root", "", SECRET):
            cases.append(({**GOOD, name: [value]}, True))
            cases.append(({**GOOD, name: [value]}, False))
    cases.extend(({**GOOD, name: [*GOOD[name], "root"]}, True) for name in GOOD)
    wrong = ([], [""], ["wrong"], [SECRET[:-1]], [SECRET + "x"], [SECRET.upper()], ["\xff"])
    cases.extend(({**GOOD, "x-almenara-proxy-secret": it}, True) for it in wrong)
    users = ([""], [" "], ["a\nb"], ["a" * 201], ["\x00"])
    cases.extend(({**GOOD, "x-forwarded-user": it}, True) for it in users)
    return cases


def test_proxy_headers_are_accepted_from_the_proxy_only() -> None:
    person = asked(GOOD)
    assert person is not None
    assert person.groups == ("dev", "sre")  # type: ignore[attr-defined]
    assert asked({}) is None
    cases = smuggled()
    assert len(cases) >= 50
    for headers, trusted in cases:
        with pytest.raises(Refused):
            asked(headers, trusted)
    print(f"{len(cases)} smuggled identities, 0 believed")
