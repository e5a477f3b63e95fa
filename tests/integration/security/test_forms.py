"""Forms that change something, for every method of being signed in, on running servers."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from support.application import Almenara
from support.reviews import run_review_server
from support.routes import ROUTES
from support.secured_server import SecuredServer

NO_NATS = "nats://127.0.0.1:1"
PROXY_SECRET = "of-the-proxy-in-tests"
PROXY_SETTINGS = {
    "PLUGINS__DISABLED": "[nats]",
    "AUTH__MODE": "proxy",
    "AUTH__PROXY__SECRET": PROXY_SECRET,
    "SERVER__TRUSTED_PROXIES": '["127.0.0.0/8"]',
    "AUTH__ROLES": "[{role: admin, groups: [sre]}]",
}
FORMS = [
    re.sub(r"{\w+(:\w+)?}", "unknown", path)
    for method, path, handler in ROUTES
    if method == "POST" and handler.opt.get("csrf") is not False
]
DOCUMENT = {"accept": "text/html", "sec-fetch-dest": "document"}


def proxy_headers(user: str) -> dict[str, str]:
    return {
        "x-forwarded-user": user,
        "x-forwarded-groups": "sre",
        "x-almenara-proxy-secret": PROXY_SECRET,
    }


def browser(almenara: Almenara, **headers: str) -> httpx.Client:
    headers = {"origin": almenara.url, **headers}
    return httpx.Client(base_url=almenara.url, headers=headers, timeout=20)


def csrf_of(client: httpx.Client, path: str = "/account") -> str:
    """Return the CSRF token of a page's forms."""
    page = client.get(path)
    match = re.search(r'name="csrf" value="([^"]+)"', page.text)
    assert match is not None, page.text
    return match[1]


def sign_in(almenara: Almenara, token: str) -> httpx.Client:
    client = browser(almenara)
    form = {"csrf": csrf_of(client, "/sign-in"), "token": token}
    assert client.post("/sign-in", data=form).status_code == 303
    return client


@pytest.fixture
def proxied(tmp_path: Path) -> Iterator[Almenara]:
    with Almenara(tmp_path / "proxied", NO_NATS, **PROXY_SETTINGS) as almenara:
        yield almenara


@pytest.fixture
def clients(
    tmp_path: Path, secured: SecuredServer, proxied: Almenara
) -> Iterator[dict[str, Callable[[], httpx.Client]]]:
    """A new browser for each method of being signed in."""
    with ExitStack() as stack:
        reviews = stack.enter_context(run_review_server())
        reviews.users["token-of-ada"] = "ada"
        reviewed = stack.enter_context(
            Almenara(
                tmp_path / "reviewed", NO_NATS, PLUGINS__DISABLED="[nats]",
                AUTH__MODE="kubernetes", AUTH__KUBERNETES__SERVER=reviews.url,
                AUTH__ROLES="[{role: admin, groups: ['*']}]",
            )
        )  # fmt: skip
        local = stack.enter_context(
            Almenara(tmp_path / "local", NO_NATS, PLUGINS__DISABLED="[nats]")
        )
        yield {
            "access token": lambda: secured.sign_in()[0],
            "API token": lambda: secured.sign_in(secured.tokens["admin"])[0],
            "proxy": lambda: browser(proxied, **proxy_headers("ada")),
            "Kubernetes token": lambda: sign_in(reviewed, "token-of-ada"),
            "sign-in off": lambda: browser(local),
            "not signed in": lambda: browser(secured.almenara),
        }


def test_forms_need_the_token_of_the_caller_for_every_method_of_sign_in(
    clients: dict[str, Callable[[], httpx.Client]],
) -> None:
    cases = refused = accepted = 0
    for method, new_client in clients.items():
        page = "/sign-in" if method == "not signed in" else "/account"
        has_forms = method != "sign-in off"
        foreign = csrf_of(new_client(), page) if has_forms else "of-another-browser"
        client = new_client()
        own = csrf_of(client, page) if has_forms else "wrong"
        for path in FORMS:
            for kind in ("none", "wrong", "another browser's", "cross-site", "own"):
                if kind == "own" and (not has_forms or path == "/sign-out"):
                    continue
                headers = {"sec-fetch-site": "cross-site"} if kind == "cross-site" else {}
                sent = {"none": "", "wrong": "wrong", "another browser's": foreign}.get(kind, own)
                response = client.post(path, data={"csrf": sent}, headers=headers)
                cases += 1
                if kind == "own":
                    # Whatever the form lacks otherwise, it is not refused as forged.
                    expected = {200, 303, 400, 401, 404} if method != "not signed in" else {401}
                    assert response.status_code in expected, (method, path, response.status_code)
                    accepted += 1
                else:
                    assert response.status_code in (401, 403), (method, path, kind)
                    refused += 1
        client.close()
    print(
        f"{len(clients)} methods x {len(FORMS)} forms: {cases} cases, {refused} forged ones"
        f" refused, {accepted} own ones accepted, 0 wrong"
    )
    assert refused > 100
    assert accepted > 15


def test_proxy_users_create_and_revoke_tokens(proxied: Almenara) -> None:
    with browser(proxied, **proxy_headers("ada")) as client:
        form = {"csrf": csrf_of(client), "name": "script", "role": "viewer", "days": "1"}
        page = client.post("/account/tokens", data=form)
        assert page.status_code == 200
        created = re.search(r"\balm_([0-9a-f]+)_[\w-]+", page.text)
        assert created is not None
        headers = {"authorization": f"Bearer {created[0]}"}
        assert httpx.get(f"{proxied.url}/api/session", headers=headers).status_code == 200
        # The token of one user's form is not another's, even in the same browser.
        other = client.get("/account", headers=proxy_headers("bob")).text
        match = re.search(r'name="csrf" value="([^"]+)"', other)
        assert match is not None
        revoke = f"/account/tokens/{created[1]}/revoke"
        assert client.post(revoke, data={"csrf": match[1]}).status_code == 403
        assert client.post(revoke, data={"csrf": csrf_of(client)}).status_code == 303
        assert httpx.get(f"{proxied.url}/api/session", headers=headers).status_code == 401


def test_proxy_sign_out_leads_to_the_proxy_or_has_no_button(
    tmp_path: Path, proxied: Almenara
) -> None:
    with browser(proxied, **proxy_headers("ada")) as client:
        assert "Sign out" not in client.get("/account").text
    settings = {**PROXY_SETTINGS, "AUTH__PROXY__SIGN_OUT_URL": "/oauth2/sign_out"}
    with (
        Almenara(tmp_path / "with-url", NO_NATS, **settings) as almenara,
        browser(almenara, **proxy_headers("ada")) as client,
    ):
        page = client.get("/account").text
        assert '<a class="button" href="/oauth2/sign_out">Sign out</a>' in page
        assert 'action="/sign-out"' not in page
    bad = Almenara(
        tmp_path / "bad", NO_NATS,
        **{**PROXY_SETTINGS, "AUTH__PROXY__SIGN_OUT_URL": "javascript:alert(1)"},
    )  # fmt: skip
    done = bad.command("serve")
    assert done.returncode == 1
    assert "auth.proxy.sign_out_url" in done.stderr


def test_expired_form_shows_a_page_and_keeps_the_input(secured: SecuredServer) -> None:
    client, stale = secured.sign_in()
    csrf = csrf_of(sign_in(secured.almenara, secured.access_token))
    assert csrf != stale
    form = {"csrf": csrf, "name": "nightly <report>", "role": "operator", "days": "30",
            "sources": "nats"}  # fmt: skip
    refused = client.post("/account/tokens", data=form, headers=DOCUMENT)
    assert refused.status_code == 403
    assert refused.headers["content-type"].startswith("text/html")
    assert "The form expired" in refused.text
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', refused.text))
    assert fields["name"] == "nightly &lt;report&gt;"
    assert fields["sources"] == "nats"
    again = client.post(
        "/account/tokens", data={**fields, "name": "nightly <report>"}, headers=DOCUMENT
    )
    assert again.status_code == 200
    assert "alm_" in again.text
    # A typed token is never repeated.
    anonymous = secured.browser()
    secret = "a-typed-secret-token"
    refused = anonymous.post(
        "/sign-in", data={"csrf": "old", "token": secret, "next": "/events?text=x"},
        headers=DOCUMENT,
    )  # fmt: skip
    assert refused.status_code == 403
    assert "/sign-in?next=%2Fevents%3Ftext%3Dx" in refused.text
    assert secret not in refused.text


def test_form_of_an_ended_session_keeps_the_input(secured: SecuredServer) -> None:
    client, csrf = secured.sign_in()
    form = {"csrf": csrf, "name": "weekly report", "role": "viewer", "days": "1"}
    assert client.post("/sign-out", data={"csrf": csrf}).status_code == 303
    refused = client.post("/account/tokens", data=form, headers=DOCUMENT)
    assert refused.status_code == 401
    assert "Your session ended" in refused.text
    assert 'href="/sign-in?next=/account"' in refused.text
    # Signed in again, as in another tab, the same form leads to one that can be submitted.
    page = csrf_of(client, "/sign-in")
    client.post("/sign-in", data={"csrf": page, "token": secured.access_token})
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', refused.text))
    again = client.post("/account/tokens", data=fields, headers=DOCUMENT)
    assert again.status_code == 403
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', again.text))
    created = client.post("/account/tokens", data=fields, headers=DOCUMENT)
    assert created.status_code == 200
    assert "weekly report" in created.text
    # A form of another site gets no such page.
    foreign = httpx.post(secured.url + "/account/tokens", data=form, headers=DOCUMENT)
    assert foreign.status_code == 401
    assert "weekly report" not in foreign.text


def test_invalid_form_keeps_the_input(secured: SecuredServer) -> None:
    client, csrf = secured.sign_in()
    form = {"csrf": csrf, "name": "x" * 80, "role": "operator", "days": "30", "types": "a.> b.c"}
    page = client.post("/account/tokens", data=form)
    assert page.status_code == 400
    assert "Enter a name of at most 60 characters." in page.text
    assert f'value="{"x" * 80}"' in page.text
    assert 'value="a.&gt; b.c"' in page.text
    assert "<option selected>operator</option>" in page.text
    assert '<option value="30" selected>' in page.text


def test_refusal_before_routing_is_a_page_for_people(secured: SecuredServer) -> None:
    client, csrf = secured.sign_in()
    for headers, name, status in (
        ({"origin": "https://evil.example"}, "script", 403),
        ({"host": "evil.example"}, "script", 400),
        ({"x-other": ""}, "x" * 70_000, 413),
    ):
        form = {"csrf": csrf, "name": name}
        request = client.build_request("POST", "/account/tokens", data=form)
        request.headers.update({**DOCUMENT, **headers})
        page = client.send(request)
        assert page.status_code == status, headers
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "<h1>" in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]
        request = client.build_request("POST", "/account/tokens", data=form)
        request.headers.update(headers)
        problem = client.send(request)
        assert problem.headers["content-type"] == "application/problem+json"
        assert problem.json()["status"] == status
