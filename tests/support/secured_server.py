"""A running Almenara with sign-in, and clients of every role and scope."""

import asyncio
import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from almenara.signals import format_time, now
from support.application import Almenara
from support.raw_nats import RawClient
from support.servers import NatsServer, wait_until

OURS, THEIRS = "marker-of-team-a", "marker-of-team-b"


class SecuredServer:
    """A running Almenara in token mode, with two teams' events and tokens of every kind."""

    def __init__(self, almenara: Almenara) -> None:
        self.almenara = almenara
        self.url = almenara.url
        # One pool of connections: a client for each request would read all certificates again.
        self.client = httpx.Client(base_url=self.url, timeout=20)
        commands = {
            "viewer": ("create", "all", "--role", "viewer"),
            "operator": ("create", "op", "--role", "operator"),
            "admin": ("create", "adm", "--role", "admin"),
            "scoped": ("create", "a", "--role", "viewer", "--source", "nats/TEAM_A"),
            "scoped admin": ("create", "b", "--role", "admin", "--type", "teama.>"),
            "": ("rotate",),
        }
        # Each is a process of its own, and most of its time goes into starting.
        with ThreadPoolExecutor(len(commands)) as pool:
            done = pool.map(lambda each: self.command(*each), commands.values())
        self.tokens = dict(zip(commands, done, strict=True))
        self.access_token = self.tokens.pop("")
        for caller in self.tokens:
            # Each on its own: the file may have been read between two of them.
            wait_until(
                lambda caller=caller: self.get("/api/session", caller).status_code == 200, caller
            )
        self.sequences = {
            each["sequence"]: THEIRS if THEIRS in json.dumps(each["data"]) else OURS
            for each in self.get("/api/events?limit=100", "viewer").json()["events"]
            if "marker" in json.dumps(each["data"])
        }

    def command(self, *arguments: str) -> str:
        done = self.almenara.command("access", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def request(
        self, method: str, path: str, caller: str | None = None, **more: Any
    ) -> httpx.Response:
        headers = {**more.pop("headers", {})}
        if caller is not None:
            headers["authorization"] = f"Bearer {self.tokens[caller]}"
        try:
            return self.client.request(method, path, headers=headers, **more)
        finally:
            self.client.cookies.clear()

    def get(self, path: str, caller: str | None = None, **more: Any) -> httpx.Response:
        return self.request("GET", path, caller, **more)

    def token_status(self, token: str) -> int:
        """The status of a request with a bearer token."""
        headers = {"authorization": f"Bearer {token}"}
        return httpx.get(self.url + "/api/session", headers=headers).status_code

    def browser(self) -> httpx.Client:
        """A browser without a session."""
        return httpx.Client(base_url=self.url, headers={"origin": self.url}, timeout=20)

    def sign_in(self, token: str | None = None) -> tuple[httpx.Client, str]:
        """A browser with a session, and the CSRF token of its forms."""
        client = self.browser()
        page = client.get("/sign-in")
        csrf = re.search(r'name="csrf" value="([^"]+)"', page.text)
        assert csrf is not None
        done = client.post(
            "/sign-in",
            data={"csrf": csrf[1], "token": token or self.access_token, "next": "/events"},
        )
        assert done.status_code == 303, done.text
        assert done.headers["location"] == "/events"
        again = re.search(r'name="csrf" value="([^"]+)"', client.get("/account").text)
        assert again is not None
        return client, again[1]


@contextmanager
def run_secured_server(folder: Path) -> Iterator[SecuredServer]:
    """Almenara in token mode, with events of two teams."""
    with NatsServer(folder / "nats") as server:
        client = RawClient(server.port)
        for team in ("TEAM_A", "TEAM_B"):
            subject = team.lower().replace("_", "")
            client.make_stream(team, f"{subject}.>")
        running = Almenara(
            folder / "almenara", server.url, AUTH__MODE="token",
            AUTH__MAX_SIGN_IN_ATTEMPTS="10000", SERVER__WEBSOCKETS_PER_USER="4",
            SERVER__REQUESTS_PER_SECOND="10000", SERVER__REQUEST_BURST="10000",
        )  # fmt: skip
        with running:
            probe = running.command("access", "create", "probe").stdout.strip()
            headers = {"authorization": f"Bearer {probe}"}

            def stores_past() -> bool:
                url = f"{running.url}/api/resources?at={format_time(now())}"
                return httpx.get(url, headers=headers).status_code == 200

            # Events from before the stored past are not among the changes since it starts.
            wait_until(stores_past, "a stored past")
            for team, marker in (("teama", OURS), ("teamb", THEIRS)):
                for number in range(5):
                    body = {"event_type": f"{team}.happened", "title": marker, "n": number,
                            "correlation_id": f"corr-{marker}"}  # fmt: skip
                    client.publish(f"{team}.x", json.dumps(body).encode())

            def stored() -> bool:
                answer = httpx.get(running.url + "/api/health", headers=headers)
                return answer.status_code == 200 and answer.json()["events_stored"] >= 10

            wait_until(stored, "the events of both teams")
            secured = SecuredServer(running)
            yield secured
            secured.client.close()
        client.close()


async def wait_for_close(secured: SecuredServer, client: httpx.Client) -> tuple[int, float]:
    """Open a live connection; return the code that it is closed with, and the monotonic time."""
    url = f"{secured.url.replace('http', 'ws')}/live?panel=events"
    header = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    async with connect(url, origin=secured.url, additional_headers={"cookie": header}) as socket:  # type: ignore[arg-type]
        try:
            async with asyncio.timeout(20):
                while True:
                    await socket.recv()
        except ConnectionClosed as error:
            return (error.rcvd.code if error.rcvd else 0), time.monotonic()
