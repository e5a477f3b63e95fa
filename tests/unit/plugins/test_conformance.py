"""The plugins of this repository keep the rules that others are held to."""

import contextlib
import http.server
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from almenara.testing import conformance
from support.notification_receivers import HttpReceiver, SmtpReceiver
from support.paths import ROOT
from support.servers import NatsServer


@contextlib.contextmanager
def nats() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder, NatsServer(Path(folder)) as server:
        yield {"servers": [server.url], "observe": 0.2}


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"process_resident_memory_bytes 5\nup 1\n"
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@contextlib.contextmanager
def page() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def checked() -> Iterator[dict[str, Any]]:
    with page() as url:
        yield {
            "checks": [
                {"name": "up", "url": url, "every": 0.1, "bearer": "x"},
                {
                    "name": "down",
                    "url": "http://127.0.0.1:1/",
                    "every": 0.1,
                    "failure_threshold": 1,
                },
            ]
        }


@contextlib.contextmanager
def scraped() -> Iterator[dict[str, Any]]:
    with page() as url:
        yield {
            "targets": [
                {"name": "up", "url": url, "presets": ["process", "vllm"], "every": 0.1},
                {"name": "down", "url": "http://127.0.0.1:1/", "presets": ["process"],
                 "bearer": "x"},
            ]
        }  # fmt: skip


@contextlib.contextmanager
def notified() -> Iterator[dict[str, Any]]:
    with HttpReceiver() as receiver, SmtpReceiver() as mail:
        url = receiver.url
        yield {
            "slack": {"url": url, "token": "x", "channel": "C1"},
            "slack_webhook": {"url": url},
            "email": {"host": "127.0.0.1", "port": mail.port, "security": "none",
                      "from": "almenara@example.com", "to": ["ops@example.com"]},
            "webhook": {"url": url, "secret": "x", "bearer": "y", "headers": {"X-Key": "z"}},
            "pagerduty": {"url": url, "routing_key": "x"},
            "teams": {"url": url},
            "ntfy": {"url": url, "topic": "t", "token": "x"},
            "alertmanager": {"url": url, "bearer": "x"},
        }  # fmt: skip


test_nats_keeps_the_rules = conformance("nats", nats)
test_http_keeps_the_rules = conformance("http", checked)
test_prometheus_keeps_the_rules = conformance("prometheus", scraped)
test_notifiers_keep_the_rules = conformance(
    str(ROOT / "plugins" / "almenara_notifiers"), receivers=notified
)
test_demo_keeps_the_rules = conformance("demo")
test_the_example_keeps_the_rules = conformance(
    str(ROOT / "docs" / "examples" / "host.py"), {"full_at": 0.0001}
)
