"""Forms of other sites, on a running server."""

import httpx
import pytest

from support.routes import ROUTES, filled
from support.secured_server import SecuredServer

pytestmark = pytest.mark.anyio


async def test_forms_of_other_sites_are_refused(secured: SecuredServer) -> None:
    client, csrf = secured.sign_in()
    _, stale = secured.sign_in()
    refused = 0
    for method, path, handler in ROUTES:
        if method == "GET" or handler.opt.get("csrf") is False:
            continue
        address = filled(path, secured)[0]
        for data, headers in (
            ({}, {}),
            ({"csrf": "wrong"}, {}),
            ({"csrf": stale}, {}),
            ({"csrf": csrf}, {"sec-fetch-site": "cross-site"}),
            ({"csrf": csrf}, {"sec-fetch-site": "same-site"}),
            ({"csrf": csrf}, {"origin": "https://evil.example"}),
            ({"csrf": csrf}, {"origin": "null"}),
        ):
            answer = client.post(address, data=data, headers=headers)
            assert answer.status_code == 403, (path, data, headers)
            refused += 1
        without = httpx.post(
            secured.url + address, data={"csrf": csrf}, cookies=dict(client.cookies)
        )
        assert without.status_code == 403, "no origin at all"
        for odd in ("PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "PROPFIND"):
            assert client.request(odd, address).status_code in (400, 405), (odd, address)
    assert client.get("/account").status_code == 200
    print(f"{refused} forged forms refused")
