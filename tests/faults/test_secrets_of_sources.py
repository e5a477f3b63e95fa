"""Servers that repeat what they are sent: no page, answer, log line or file shows a secret."""

import socketserver
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from almenara.plugins import load_plugins
from support.application import Almenara
from support.secret_settings import secret_places
from support.servers import wait_until

MARK = "s3cr3tQ7f3a"
SENT = {
    "plugins.http.checks[0].headers.a", "plugins.http.checks[0].bearer", "plugins.nats.password",
    "plugins.prometheus.targets[0].headers.a", "plugins.prometheus.targets[0].bearer",
    "plugins.ray.clusters[0].token", "plugins.ray.clusters[0].headers.a",
    "plugins.valkey.deployments[0].password", "plugins.vllm.servers[0].headers.a",
    "plugins.http.checks[0].body", "samples.remote_write[0].bearer",
    "samples.remote_write[0].headers.a",
}  # fmt: skip
"""The secrets that sources send to the servers of this test."""
STORED = {
    "auth.token", "auth.proxy.secret", "auth.kubernetes.token", "intake.a.secret",
    "plugins.http.checks[0].password", "plugins.nats.token",
    "plugins.valkey.deployments[0].sentinel_password", "plugins.vllm.servers[0].api_key",
}  # fmt: skip
"""Further ones that are in the configuration of this test, and not sent to these servers."""
ELSEWHERE = {
    "auth.oidc.client_secret", "alerting.heartbeat.url", "plugins.ray.kuberay[0].token",
    "plugins.ray.kuberay[0].headers.a", "plugins.neo4j.deployments[0].password", "bus.secret",
    "plugins.http.checks[0].key_password", "plugins.http.checks[0].proxy_password",
    "plugins.vllm.kubernetes[0].api_key", "plugins.vllm.kubernetes[0].headers.a",
    "plugins.vllm.ray[0].api_key", "plugins.vllm.ray[0].headers.a",
    # A receiver has either a password or a bearer token.
    "samples.remote_write[0].password",
}  # fmt: skip
"""What needs another system: the tests of sign-in, notifications, KubeRay, Neo4j, replicas,
proxies, client certificates and discovery have it."""
PAGES = (
    "/", "/events", "/sources", "/account", "/dashboards/http", "/dashboards/prometheus",
    "/dashboards/ray", "/dashboards/nats", "/dashboards/valkey", "/dashboards/vllm",
    "/api/resources?limit=5000", "/api/events.ndjson", "/api/events?limit=200", "/api/sources",
    "/api/health", "/api/openapi.json", "/metrics",
)  # fmt: skip


class Echo(socketserver.ThreadingTCPServer):
    """Counts connections, and remembers everything that was sent."""

    allow_reuse_address = daemon_threads = True

    def __init__(self, handler: type[socketserver.BaseRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.seen = b""
        self.numbers, self.answered = count(), 0

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class Handler(socketserver.BaseRequestHandler):
    """Reads one request and answers it with itself."""

    server: Echo
    end = b"\r\n\r\n"

    def handle(self) -> None:
        self.request.settimeout(5)
        self.greet()
        sent = b""
        try:
            while self.end not in sent and (part := self.request.recv(65_536)):
                sent += part
            self.server.seen += sent
            self.request.sendall(self.answer(sent))
            self.server.answered += 1
        except OSError:
            return

    def greet(self) -> None:
        """Send what comes before the request."""

    def answer(self, sent: bytes) -> bytes:
        raise NotImplementedError


class HttpHandler(Handler):
    """An error, a redirect, a page or a reason phrase that repeats the request."""

    def answer(self, sent: bytes) -> bytes:
        line = b" ".join(sent.split())
        length = f"content-length: {len(sent)}\r\nconnection: close\r\n".encode()
        return (
            b"HTTP/1.1 500 Error\r\ncontent-type: text/plain\r\n" + length + b"\r\n" + sent,
            b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:9/?leak=" + line.replace(b" ", b"+")
            + b"\r\n" + length + b"\r\n" + sent,
            b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n" + length + b"\r\n" + sent,
            b"HTTP/1.1 401 " + line + b"\r\nwww-authenticate: " + line + b"\r\n" + length
            + b"\r\n" + sent,
            sent,
        )[next(self.server.numbers) % 5]  # fmt: skip


class NatsHandler(Handler):
    end = b"\r\n"

    def greet(self) -> None:
        self.request.sendall(
            b'INFO {"server_id":"x","version":"2.15.0","max_payload":1048576,"auth_required":true,'
            b'"headers":true,"proto":1}\r\n'
        )

    def answer(self, sent: bytes) -> bytes:
        return b"-ERR '" + b" ".join(sent.split()).replace(b"'", b"") + b"'\r\n"


class ValkeyHandler(Handler):
    end = b"\r\n"

    def answer(self, sent: bytes) -> bytes:
        return b"-ERR " + b" ".join(sent.split()) + b"\r\n"


@contextmanager
def serving(handler: type[Handler]) -> Iterator[Echo]:
    with Echo(handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


def mark(path: str) -> str:
    """The secret of a setting, which no other has."""
    return f"{MARK}-{sorted(SENT | STORED).index(path):02}-and-more-of-it-to-be-long"


def configure(http: int, nats: int, valkey: int) -> dict[str, Any]:
    url = f"http://127.0.0.1:{http}"

    def of(plugin: str, *names: str) -> dict[str, str]:
        return {name: mark(f"plugins.{plugin}.{name}") for name in names}

    def headers(plugin: str) -> dict[str, dict[str, str]]:
        return {"headers": {"a": mark(f"plugins.{plugin}.headers.a")}}

    check, target = "http.checks[0]", "prometheus.targets[0]"
    cluster, server, deployment = "ray.clusters[0]", "vllm.servers[0]", "valkey.deployments[0]"
    often = {"every": 0.5, "timeout": 2}
    return {
        "auth": {
            "mode": "token", "token": mark("auth.token"),
            "proxy": {"secret": mark("auth.proxy.secret")},
            "kubernetes": {"token": mark("auth.kubernetes.token")},
        },
        "samples": {"remote_write": [{
            "url": f"{url}/write", "bearer": mark("samples.remote_write[0].bearer"),
            "headers": {"a": mark("samples.remote_write[0].headers.a")},
        }]},
        "intake": {"a": {
            "kind": "webhook", "signature": "github", "secret": mark("intake.a.secret"),
        }},
        "plugins": {
            "http": {"checks": [{
                "name": "a", "url": url, "follow_redirects": True, "contains": "ready", **often,
                "method": "POST", **of(check, "bearer", "password", "body"), **headers(check),
            }]},
            "prometheus": {"targets": [{
                "name": "a", "url": f"{url}/metrics", "presets": ["process"], **often,
                **of(target, "bearer"), **headers(target),
            }]},
            "ray": {"clusters": [{
                "name": "a", "url": url, **of(cluster, "token"), **headers(cluster),
            }]},
            "vllm": {"servers": [{
                "name": "a", "url": url, **of(server, "api_key"), **headers(server),
            }]},
            "nats": {
                "servers": [f"nats://127.0.0.1:{nats}"], "user": "u",
                **of("nats", "password", "token"),
            },
            "valkey": {"deployments": [{
                "name": "a", "urls": [f"redis://127.0.0.1:{valkey}"],
                **of(deployment, "password", "sentinel_password"),
            }]},
        },
    }  # fmt: skip


def test_no_secret_is_shown_though_servers_repeat_it(tmp_path: Path) -> None:
    known = {place.path for place in secret_places(load_plugins().settings_types())}
    assert known - SENT - STORED - ELSEWHERE == set()
    wrong: list[str] = []
    with ExitStack() as stack:
        http, nats, valkey = (
            stack.enter_context(serving(handler))
            for handler in (HttpHandler, NatsHandler, ValkeyHandler)
        )
        config = configure(http.port, nats.port, valkey.port)
        almenara = stack.enter_context(Almenara(tmp_path, config=config))
        headers = {"authorization": f"Bearer {mark('auth.token')}"}

        def missing() -> list[str]:
            seen = (http.seen + nats.seen + valkey.seen).decode("utf-8", "replace")
            return [path for path in sorted(SENT) if mark(path) not in seen]

        wait_until(lambda: not missing(), "every secret to be sent", 60)
        # Each of the answers to each of the sources, and what they make of it.
        answered = http.answered
        wait_until(lambda: http.answered > answered + 60, "more requests", 90)
        outputs = {page: almenara.text(page, headers) for page in PAGES}
        assert '"http.check"' in outputs["/api/resources?limit=5000"]
    outputs["log"] = almenara.log
    for file in (tmp_path / "var").rglob("*"):
        if file.is_file():
            outputs[str(file)] = file.read_bytes().decode("utf-8", "replace")
    for name, output in outputs.items():
        if MARK in output:
            place = output.index(MARK)
            wrong.append(f"{name}: …{output[max(place - 120, 0) : place + 60]}…")
    print(f"{len(SENT | STORED)} secrets x {len(outputs)} outputs, {len(wrong)} wrong")
    assert wrong == []
