"""Sign-in with a provider on replicas that share a bus: any continues what another has started."""

import asyncio
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from support.application import Almenara
from support.oidc_provider import LOGGED_OUT, SECRET, OidcProvider
from support.replicas import replicated_almenara
from support.servers import NatsServer, wait_until

pytestmark = pytest.mark.anyio

PATIENCE = 60.0
ISSUED = "new tokens are issued"
"""What the log of the provider has, before it sends them."""
SESSIONS_LEASE = re.compile(r'"lease": "sessions", .*"a lease is acquired')


class Replicas:
    """Two replicas, which browsers know by the address of the first, and their provider."""

    def __init__(self, replicas: list[Almenara], provider: OidcProvider) -> None:
        self.replicas, self.provider = replicas, provider
        self.first, self.second = replicas
        self.host = {"host": f"127.0.0.1:{self.first.port}", "origin": self.first.url}

    def get(self, browser: httpx.Client, replica: Almenara, path: str) -> httpx.Response:
        return browser.get(f"{replica.url}{path}", headers=self.host)

    def start(self, replica: Almenara, caller: str) -> tuple[httpx.Client, str]:
        """Start a login on a replica; return the browser and the path that it comes back to."""
        browser = httpx.Client(timeout=20)
        browser.cookies.set("who", caller, domain="127.0.0.1", path="/")
        answer = self.get(browser, replica, "/sign-in/start?next=/sources")
        while not (address := answer.headers["location"]).startswith(self.first.url):
            answer = browser.get(httpx.URL(self.provider.url).join(address))
        return browser, address.removeprefix(self.first.url)

    def signed_in(self, caller: str) -> httpx.Client:
        """A browser that has left from the second replica and come back to the first."""
        browser, callback = self.start(self.second, caller)
        answer = self.get(browser, self.first, callback)
        assert answer.headers["location"] == "/sources", answer.text
        return browser

    def log_out(self, browser: httpx.Client) -> None:
        """End the session of a browser at the provider."""
        page = browser.get(f"{self.provider.url}/session/end")
        form = re.search(r'name="xsrf" value="([^"]+)"', page.text)
        assert form is not None
        browser.post(
            f"{self.provider.url}/session/end/confirm", data={"xsrf": form[1], "logout": "yes"}
        )

    def roles(self, browser: httpx.Client) -> list[str]:
        """The role of a browser on each replica; empty where it has no session."""
        answers = [self.get(browser, each, "/api/session") for each in self.replicas]
        return [each.json()["role"] if each.status_code == 200 else "" for each in answers]

    def wait_for_roles(self, browser: httpx.Client, *roles: str) -> None:
        wait_until(lambda: self.roles(browser) == list(roles), f"roles {roles}", PATIENCE)


@pytest.fixture
def replicas(tmp_path: Path, nats_server: NatsServer, oidc_folder: Path) -> Iterator[Replicas]:
    roles = [{"role": "admin", "groups": ["sre"]}, {"role": "viewer", "groups": ["payments"]}]
    with ExitStack() as stack:
        applications = [replicated_almenara(nats_server, tmp_path / name, name) for name in "ab"]
        provider = OidcProvider(oidc_folder, applications[0].url).start()
        stack.callback(provider.stop)
        assert applications[0].command("streams", "apply").returncode == 0
        for application in applications:
            application.environment |= {
                "ALMENARA_AUTH__MODE": "oidc",
                "ALMENARA_AUTH__OIDC__ISSUER": provider.url,
                "ALMENARA_AUTH__OIDC__CLIENT_ID": "almenara",
                "ALMENARA_AUTH__OIDC__CLIENT_SECRET": SECRET,
                "ALMENARA_AUTH__OIDC__REFRESH_INTERVAL": "1",
                "ALMENARA_AUTH__ROLES": str(roles).replace("'", '"'),
            }
            stack.enter_context(application)
        yield Replicas(applications, provider)


async def test_login_finishes_and_sign_out_counts_on_another_replica(replicas: Replicas) -> None:
    browser = replicas.signed_in("ada")
    replicas.wait_for_roles(browser, "admin", "admin")
    cookie = f"{replicas.first.session_cookie}={browser.cookies[replicas.first.session_cookie]}"
    url = f"ws://127.0.0.1:{replicas.first.port}/live?panel=events"
    async with connect(
        url,
        origin=replicas.first.url,  # type: ignore[arg-type]
        additional_headers={"cookie": cookie},
    ) as page:
        await page.recv()
        form = re.search(r'name="csrf" value="([^"]+)"',
                         replicas.get(browser, replicas.second, "/account").text)  # fmt: skip
        assert form is not None
        done = browser.post(
            f"{replicas.second.url}/sign-out", data={"csrf": form[1]}, headers=replicas.host
        )
        assert replicas.provider.url in done.text, "the logout page of the provider"
        with pytest.raises(ConnectionClosed) as closed:
            async with asyncio.timeout(PATIENCE):
                while True:
                    await page.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4401
    assert browser.cookies.get(replicas.first.session_cookie) is None


def test_login_of_another_browser_or_installation_is_refused(replicas: Replicas) -> None:
    _, callback = replicas.start(replicas.second, "ada")
    other, _ = replicas.start(replicas.second, "grace")
    assert replicas.get(other, replicas.first, callback).status_code == 400


def test_refreshes_count_on_every_replica_and_survive_the_one_that_makes_them(
    replicas: Replicas,
) -> None:
    ada, grace = replicas.signed_in("ada"), replicas.signed_in("grace")
    replicas.wait_for_roles(grace, "viewer", "viewer")
    replicas.provider.control("groups/ada/payments")
    replicas.wait_for_roles(ada, "viewer", "viewer")
    # Whichever replica refreshes sessions: after both restarts it was another one.
    for application, groups, role in (
        (replicas.first, "sre", "admin"), (replicas.second, "payments", "viewer")
    ):  # fmt: skip
        application.kill()
        application.start()
        replicas.provider.control(f"groups/ada/{groups}")
        replicas.wait_for_roles(ada, role, role)
    replicas.provider.control("gone/grace")
    replicas.wait_for_roles(grace, "", "")


def test_back_channel_logout_reaches_sessions_of_the_other_replica(replicas: Replicas) -> None:
    browser, callback = replicas.start(replicas.first, "ada")
    # The provider sends it to the first replica only.
    assert replicas.get(browser, replicas.second, callback).status_code == 303
    replicas.log_out(browser)
    wait_until(lambda: LOGGED_OUT in replicas.provider.log, "the end of the logout", PATIENCE)
    replicas.wait_for_roles(browser, "", "")


def test_logout_token_counts_once_on_all_replicas(replicas: Replicas) -> None:
    provider, tokens = replicas.provider, list[str]()
    with captured(tokens) as address:
        provider.stop()
        provider.logout = address
        provider.start()
        browser = replicas.signed_in("ada")
        replicas.log_out(browser)
        wait_until(lambda: bool(tokens), "a logout token", PATIENCE)
    replicas.wait_for_roles(browser, "admin", "admin")
    assert send_logout_token(replicas.second, tokens[0]) == 200
    replicas.wait_for_roles(browser, "", "")
    for replica in replicas.replicas:
        assert send_logout_token(replica, tokens[0]) == 400
    # Nor does one accept it again that has forgotten everything in its memory.
    replicas.second.kill()
    replicas.second.start()
    assert send_logout_token(replicas.second, tokens[0]) == 400


def test_refresh_token_that_counts_once_is_handed_over_at_an_orderly_end(
    replicas: Replicas,
) -> None:
    provider, browser = replicas.provider, replicas.signed_in("ada")
    replicas.wait_for_roles(browser, "admin", "admin")
    refreshing = [each for each in replicas.replicas if SESSIONS_LEASE.search(each.log)]
    (stopping,) = refreshing
    (other,) = set(replicas.replicas) - {stopping}
    provider.control("rotate/1500")
    wait_until(lambda: ISSUED in provider.log, "new tokens, which are on their way", PATIENCE)
    assert stopping.stop() == 0
    count = provider.log.count(ISSUED)
    wait_until(lambda: provider.log.count(ISSUED) >= count + 2, "further refreshes", PATIENCE)
    assert SESSIONS_LEASE.search(other.log)
    assert replicas.get(browser, other, "/api/session").json()["role"] == "admin"


def send_logout_token(replica: Almenara, token: str) -> int:
    address = f"{replica.url}/sign-in/back-channel-logout"
    return httpx.post(address, data={"logout_token": token}, timeout=20).status_code


@contextmanager
def captured(tokens: list[str]) -> Iterator[str]:
    """Receive the logout tokens of a provider, in place of Almenara."""

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            tokens.extend(parse_qs(body)["logout_token"])
            self.send_response(200)
            self.end_headers()

    server = HTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
