"""Sign-in by a proxy in front, end to end: Traefik asks an authority who it is and tells us."""

import contextlib
import http.client
import json
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from websockets.exceptions import ConnectionClosed, InvalidStatus

from support.application import Almenara
from support.authority import Authority
from support.chart.live import Live, opened
from support.servers import accepts, free_port, wait_until

SECRET = "what-only-the-proxy-sends"
RECHECK = 2
ROLES = [
    {"role": "admin", "groups": ["sre"]},
    {"role": "viewer", "groups": ["payments"], "grants": [{"sources": ["nats/PAY"]}]},
]


class Answering(BaseHTTPRequestHandler):
    """Identifies users by a cookie, as a forward-auth service does."""

    groups: dict[str, str]

    def do_GET(self) -> None:
        cookie = self.headers.get("cookie", "")
        who = cookie.partition("session=")[2].partition(";")[0]
        known = who in self.groups
        self.send_response(200 if known else 401)
        if known:
            self.send_header("X-Forwarded-User", who)
            self.send_header("X-Forwarded-Groups", self.groups[who])
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Discard the log line."""


class Front:
    """Traefik and the authority it asks, in front of an address."""

    def __init__(
        self, folder: Path, upstream: str, transport: dict[str, Any] | None = None, port: int = 0
    ) -> None:
        self.folder, self.port = folder, port or free_port()
        folder.mkdir(parents=True)
        self.groups = {"ada": "sre,dev", "grace": "payments", "mallory": "others"}
        handler = type("Known", (Answering,), {"groups": self.groups})
        self.authority = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        middlewares: dict[str, Any] = {
            "auth": {
                "forwardAuth": {
                    "address": f"http://127.0.0.1:{self.authority.server_port}/",
                    "authResponseHeaders": ["X-Forwarded-User", "X-Forwarded-Groups"],
                }
            },
        }
        if transport is None:
            middlewares["secret"] = {
                "headers": {"customRequestHeaders": {"X-Almenara-Proxy-Secret": SECRET}}
            }
        balancer: dict[str, Any] = {"servers": [{"url": upstream}]}
        if transport is not None:
            balancer["serversTransport"] = "certified"
        dynamic: dict[str, Any] = {
            "routers": {
                "all": {"rule": "PathPrefix(`/`)", "service": "it",
                        "middlewares": list(middlewares)},
            },
            "middlewares": middlewares,
            "services": {"it": {"loadBalancer": balancer}},
        }  # fmt: skip
        if transport is not None:
            dynamic["serversTransports"] = {"certified": transport}
        (folder / "dynamic.yaml").write_text(yaml.safe_dump({"http": dynamic}))

    @property
    def log(self) -> str:
        return (self.folder / "traefik.log").read_text("utf-8", "replace")

    def __enter__(self) -> "Front":
        threading.Thread(target=self.authority.serve_forever, daemon=True).start()
        program = Path(sys.executable).parent / "traefik"
        arguments = [
            f"--entryPoints.web.address=127.0.0.1:{self.port}",
            f"--providers.file.filename={self.folder / 'dynamic.yaml'}",
            "--global.checkNewVersion=false", "--global.sendAnonymousUsage=false",
        ]  # fmt: skip
        with (self.folder / "traefik.log").open("ab") as log:
            self.process = subprocess.Popen([program, *arguments], stdout=log, stderr=log)
        wait_until(lambda: accepts(self.port), "traefik", 60)
        wait_until(lambda: self.get("/healthz", "ada")[0] == 200, "the route", 30)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(30)
        self.authority.shutdown()
        self.authority.server_close()

    def get(
        self, path: str, who: str = "", source: str = "127.0.0.1", **headers: str
    ) -> tuple[int, str]:
        """Return status and text of a response through Traefik, from an address of this machine."""
        cookie = {"cookie": f"session={who}"} if who else {}
        return request_from(self.port, path, {**cookie, **headers}, source)

    def live(self, who: str, origin: str | None = None) -> AbstractContextManager[Live]:
        return opened(
            f"ws://127.0.0.1:{self.port}/live?panel=events",
            origin=origin or f"http://127.0.0.1:{self.port}",
            additional_headers={"cookie": f"session={who}"} if who else {},
        )


def request_from(
    port: int, path: str, headers: dict[str, str], source: str = "127.0.0.1"
) -> tuple[int, str]:
    connection = http.client.HTTPConnection(
        "127.0.0.1", port, timeout=10, source_address=(source, 0)
    )
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except OSError:
        return 0, ""
    finally:
        connection.close()


def config(**server: Any) -> dict[str, Any]:
    return {
        "server": {"drain_period": 0.2, "trusted_proxies": ["127.0.0.1"], **server},
        "auth": {"mode": "proxy", "roles": ROLES, "proxy": {"reauthentication_interval": RECHECK}},
    }


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Front, Almenara]]:
    folder = tmp_path_factory.mktemp("proxy")
    settings = config()
    settings["auth"]["proxy"]["secret"] = SECRET
    with (
        Almenara(folder / "product", config=settings) as product,
        Front(folder / "front", product.url) as front,
    ):
        yield front, product


def who(answer: tuple[int, str]) -> tuple[str, str]:
    session = json.loads(answer[1])
    return session["name"], session["role"]


def test_proxy_identity_signs_in(behind: tuple[Front, Almenara]) -> None:
    front, _ = behind
    assert who(front.get("/api/session", "ada")) == ("ada", "admin")
    assert who(front.get("/api/session", "grace")) == ("grace", "viewer")
    assert front.get("/events", "ada")[0] == 200
    for stranger in ("", "eve"):
        assert front.get("/api/session", stranger)[0] == 401
    status, text = front.get("/api/session", "mallory")
    assert (status, "has no role" in text) == (403, True)


def test_proxy_replaces_identity_headers_of_browser(
    behind: tuple[Front, Almenara],
) -> None:
    front, _ = behind
    for headers in (
        {"X-Forwarded-User": "ada"},
        {"X-Forwarded-User": "ada", "X-Forwarded-Groups": "sre"},
        {"x-forwarded-groups": "sre"},
        {"X-Almenara-Proxy-Secret": "guessed"},
    ):
        assert who(front.get("/api/session", "grace", **headers)) == ("grace", "viewer"), headers
        assert front.get("/api/session", **headers)[0] == 401, headers
    for name in ("X_Forwarded_User", "x-forwarded_groups", "X_Almenara_Proxy_Secret"):
        status, _ = front.get("/api/session", "grace", **{name: "sre"})
        assert status == 400, name


def test_identity_headers_without_proxy_are_refused(behind: tuple[Front, Almenara]) -> None:
    _, product = behind
    name = {"X-Forwarded-User": "ada", "X-Forwarded-Groups": "sre"}
    for headers, source, status in (
        ({}, "127.0.0.1", 401),
        (name, "127.0.0.1", 403),
        ({**name, "X-Almenara-Proxy-Secret": "guessed"}, "127.0.0.1", 403),
        ({**name, "X-Almenara-Proxy-Secret": SECRET}, "127.0.0.2", 403),
        ({**name, "X-Almenara-Proxy-Secret": SECRET, "X-Forwarded-For": "127.0.0.1"},
         "127.0.0.2", 403),
        ({**name, "X-Almenara-Proxy-Secret": SECRET}, "127.0.0.1", 200),
    ):  # fmt: skip
        assert request_from(product.port, "/api/session", headers, source)[0] == status, (
            headers,
            source,
        )


def test_access_log_has_real_client_address(
    behind: tuple[Front, Almenara],
) -> None:
    front, product = behind
    front.get("/events", "grace", "127.0.0.3", **{"X_Forwarded_User": "root",
                                                  "X-Forwarded-For": "6.6.6.6, 127.0.0.1",
                                                  "Forwarded": "for=6.6.6.6"})  # fmt: skip
    headers = {"X-Forwarded-User": "direct", "X-Forwarded-For": "6.6.6.6"}
    request_from(product.port, "/events", headers, "127.0.0.4")
    query = "/api/events?origin=almenara/access&type=almenara.access.identity_refused&limit=200"

    def addresses() -> set[str]:
        status, text = front.get(query, "ada")
        assert status == 200, text
        return {each["data"]["address"] for each in json.loads(text)["events"]}

    wait_until(lambda: {"127.0.0.3", "127.0.0.4"} <= addresses(), "both refusals")
    assert "6.6.6.6" not in addresses()
    assert SECRET not in product.log


def test_live_pages_end_with_proxy_session(
    behind: tuple[Front, Almenara],
) -> None:
    front, _ = behind
    for stranger, origin, status in (
        ("", None, 401), ("eve", None, 401), ("mallory", None, 403),
        ("ada", "http://evil.example", 403), ("ada", f"http://127.0.0.1:{front.port}0", 403),
    ):  # fmt: skip
        with pytest.raises(InvalidStatus) as refused, front.live(stranger, origin):
            pass
        assert refused.value.response.status_code == status, (stranger, origin)
    with front.live("grace") as page:
        assert "event-note" in str(page.recv(10))
        del front.groups["grace"]
        started = time.monotonic()
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                page.recv(20)
    assert closed.value.rcvd is not None
    # It has to reconnect through the proxy, which refuses it.
    assert closed.value.rcvd.code == 1012
    assert time.monotonic() - started < RECHECK + 10
    with pytest.raises(InvalidStatus), front.live("grace"):
        pass
    front.groups["grace"] = "payments"


def test_client_certificate_replaces_proxy_secret(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server, client = authority.issue("server", server=True), authority.issue("proxy")
    port = free_port()
    settings = config(
        # Pages come over http to Traefik here, and on over https: not what an origin of ours is.
        allowed_origins=[f"http://127.0.0.1:{port}"],
        tls={"cert": str(server[0]), "key": str(server[1]), "client_ca": str(authority.path)},
    )
    trust = ssl.create_default_context(cafile=str(authority.path))
    trust.load_cert_chain(*client)

    class Certified(Almenara):
        url = property(lambda self: f"https://127.0.0.1:{self.port}")  # type: ignore[assignment]

        def status(self, path: str, **headers: str) -> int:
            connection = http.client.HTTPSConnection(
                "127.0.0.1", self.port, timeout=10, context=trust
            )
            with contextlib.closing(connection):
                try:
                    connection.request("GET", path, headers=headers)
                    return connection.getresponse().status
                except OSError:
                    return 0

    transport = {
        "rootCAs": [str(authority.path)],
        "certificates": [{"certFile": str(client[0]), "keyFile": str(client[1])}],
    }
    with (
        Certified(tmp_path / "product", config=settings) as product,
        Front(tmp_path / "front", product.url, transport, port) as front,
    ):
        assert who(front.get("/api/session", "ada")) == ("ada", "admin")
        assert front.get("/api/session")[0] == 401
        with front.live("ada") as page:
            assert page.recv(10)
        stranger = ssl.create_default_context(cafile=str(authority.path))
        connection = http.client.HTTPSConnection(
            "127.0.0.1", product.port, timeout=10, context=stranger
        )
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
            connection.request("GET", "/api/session", headers={"X-Forwarded-User": "ada"})
            connection.getresponse()
        connection.close()
