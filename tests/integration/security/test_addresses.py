"""Public addresses, ports and proxies, as they decide sign-in on a running server."""

import re
from pathlib import Path

import httpx
import pytest

from support.application import Almenara
from support.servers import wait_until

NO_NATS = "nats://127.0.0.1:1"
ACCESS_TOKEN = "an-access-token-of-these-tests"
QUIET = {"PLUGINS__DISABLED": "[nats]"}


def sign_in(client: httpx.Client, almenara: Almenara, token: str) -> None:
    page = client.get(f"{almenara.url}/sign-in").text
    form = re.search(r'name="csrf" value="([^"]+)"', page)
    assert form is not None
    response = client.post(
        f"{almenara.url}/sign-in",
        data={"csrf": form[1], "token": token},
        headers={"origin": almenara.url},
    )
    assert response.status_code == 303


def test_two_servers_on_one_host_do_not_sign_each_other_out(tmp_path: Path) -> None:
    first, second = (
        Almenara(tmp_path / name, NO_NATS, AUTH__MODE="token", **QUIET) for name in ("a", "b")
    )
    tokens = [each.command("access", "rotate").stdout.strip() for each in (first, second)]
    with first, second, httpx.Client(timeout=20) as client:
        for almenara, token in zip((first, second), tokens, strict=True):
            sign_in(client, almenara, token)
        for almenara in (first, second):
            assert client.get(f"{almenara.url}/account").status_code == 200
        # The cookie of versions before 0.2 stays valid.
        name = first.session_cookie
        secret = next(
            cookie.value for cookie in client.cookies.jar if cookie.name == name and cookie.value
        )
        headers = {"cookie": f"almenara={secret}"}
        assert httpx.get(f"{first.url}/account", headers=headers).status_code == 200
        assert httpx.get(f"{second.url}/account", headers=headers).status_code == 303


def test_forwarded_host_is_used_and_must_be_allowed(tmp_path: Path) -> None:
    with Almenara(
        tmp_path / "a", NO_NATS, AUTH__MODE="token", **QUIET,
        AUTH__TOKEN=ACCESS_TOKEN,
        SERVER__TRUSTED_PROXIES='["127.0.0.0/8"]', SERVER__ALLOWED_HOSTS='["watch.example"]',
    ) as almenara:  # fmt: skip
        forwarded = {
            "x-forwarded-for": "203.0.113.9, 127.0.0.2", "x-forwarded-proto": "https,http",
            "x-forwarded-host": "watch.example", "x-forwarded-port": "8443",
        }  # fmt: skip
        page = httpx.get(f"{almenara.url}/sign-in", headers=forwarded)
        assert page.status_code == 200
        assert "loaded over http" not in page.text
        assert "__Host-almenara-form-8443=" in page.headers["set-cookie"]
        assert "strict-transport-security" in page.headers
        token = re.search(r'name="csrf" value="([^"]+)"', page.text)
        assert token is not None
        cookie = page.headers["set-cookie"].partition(";")[0]
        form = {"csrf": token[1], "token": ACCESS_TOKEN}
        for origin, status in (
            ("https://watch.example:8443", 303), ("https://watch.example", 403),
            (almenara.url, 403), ("https://evil.example:8443", 403),
        ):  # fmt: skip
            headers = {**forwarded, "origin": origin, "cookie": cookie}
            response = httpx.post(f"{almenara.url}/sign-in", data=form, headers=headers)
            assert response.status_code == status, origin
        for bad in ({"x-forwarded-host": "evil.example"}, {"host": "evil.example"}):
            assert httpx.get(f"{almenara.url}/sign-in", headers=forwarded | bad).status_code == 400


def test_server_url_makes_up_for_a_proxy_that_rewrites_the_host(tmp_path: Path) -> None:
    with Almenara(
        tmp_path / "a", NO_NATS, AUTH__MODE="token", **QUIET,
        AUTH__TOKEN=ACCESS_TOKEN,
        SERVER__URL="https://watch.example:8443", SERVER__TRUSTED_PROXIES='["127.0.0.0/8"]',
        SERVER__ALLOWED_HOSTS='["almenara.internal"]',
    ) as almenara:  # fmt: skip
        headers = {"host": "almenara.internal", "x-forwarded-for": "203.0.113.9"}
        page = httpx.get(f"{almenara.url}/sign-in", headers=headers)
        assert "loaded over http" not in page.text
        assert "__Host-almenara-form-8443=" in page.headers["set-cookie"]
        token = re.search(r'name="csrf" value="([^"]+)"', page.text)
        assert token is not None
        cookie = page.headers["set-cookie"].partition(";")[0]
        form = {"csrf": token[1], "token": ACCESS_TOKEN}
        headers |= {"origin": "https://watch.example:8443", "cookie": cookie}
        assert httpx.post(f"{almenara.url}/sign-in", data=form, headers=headers).status_code == 303


@pytest.mark.parametrize(
    ("url", "said"),
    [("https://watch.example/almenara", "has a path"), ("watch.example", "is not a URL")],
)
def test_server_url_that_is_invalid_is_refused_at_start(
    tmp_path: Path, url: str, said: str
) -> None:
    almenara = Almenara(tmp_path / "a", NO_NATS, AUTH__MODE="token", SERVER__URL=url, **QUIET)
    done = almenara.command("serve")
    assert done.returncode == 1
    assert said in " ".join(done.stderr.replace("│", " ").split())


def test_lockout_behind_an_unlisted_proxy_is_reported(tmp_path: Path) -> None:
    with Almenara(
        tmp_path / "a", NO_NATS, AUTH__MODE="token", **QUIET,
        SERVER__ALLOWED_HOSTS='["watch.example"]',
    ) as almenara:  # fmt: skip
        admin = almenara.command("access", "create", "admin", "--role", "admin").stdout.strip()
        headers = {"x-forwarded-for": "203.0.113.9", "authorization": "Bearer wrong"}
        statuses = [
            httpx.get(f"{almenara.url}/api/session", headers=headers).status_code for _ in range(6)
        ]
        assert statuses == [401] * 5 + [429]
        wait_until(lambda: "server.trusted_proxies" in almenara.log, "the warning")
        assert "sign-in of an address is slowed down" in almenara.log
        headers = {"authorization": f"Bearer {admin}"}

        def types() -> list[str]:
            page = httpx.get(f"{almenara.url}/api/events?origin=almenara/access", headers=headers)
            return [event["type"] for event in page.json().get("events", [])]

        wait_until(lambda: "almenara.access.sign_in_locked" in types(), "the access log")
        done = almenara.command("doctor")
        assert "server.trusted_proxies" in done.stdout
        almenara.environment["ALMENARA_SERVER__TRUSTED_PROXIES"] = '["127.0.0.1"]'
        assert "server.trusted_proxies" not in almenara.command("doctor").stdout


def test_style_sheets_of_plugins_need_sign_in(tmp_path: Path) -> None:
    with Almenara(tmp_path / "a", NO_NATS, AUTH__MODE="token", **QUIET) as almenara:
        token = almenara.command("access", "rotate").stdout.strip()
        page = httpx.get(f"{almenara.url}/sign-in")
        public = re.findall(r'href="(/static/[^"]+\.css)"', page.text)
        assert [path.split("/")[2].partition(".")[0] for path in public] == ["almenara", "time"]
        headers = {"authorization": f"Bearer {token}"}
        sheets = re.findall(
            r'href="(/static/[^"]+\.css)"', httpx.get(almenara.url, headers=headers).text
        )
        of_plugins = [path for path in sheets if path not in public]
        assert of_plugins
        for path in of_plugins:
            assert httpx.get(almenara.url + path).status_code == 404
            sheet = httpx.get(almenara.url + path, headers=headers)
            assert sheet.status_code == 200
            assert sheet.headers["cache-control"].startswith("private")
