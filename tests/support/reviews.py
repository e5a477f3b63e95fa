"""A Kubernetes API server reduced to TokenReview and SubjectAccessReview."""

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class ReviewServer(http.server.ThreadingHTTPServer):
    """Authenticates `users`, by token, and grants `rights`, by user, verb and resource."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.users: dict[str, str] = {}
        self.rights: set[tuple[str, str, str]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def review(self, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
        """Return the status of a review."""
        if kind == "TokenReview":
            name = self.users.get(spec["token"])
            return {"authenticated": name is not None, "user": {"username": name or ""}}
        attributes = spec["resourceAttributes"]
        right = (spec["user"], attributes["verb"], attributes["resource"])
        return {"allowed": right in self.rights}


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ReviewServer

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        status = self.server.review(request["kind"], request["spec"])
        body = json.dumps({"status": status}).encode()
        self.send_response(201)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


@contextmanager
def run_review_server() -> Iterator[ReviewServer]:
    """Run a review server in a thread."""
    with ReviewServer() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
