"""A server of metrics.k8s.io that a real kube-apiserver aggregates, as metrics-server is one.

It speaks the API over TLS, and only with the API server, whose client certificate it asks for. What
it answers the tests decide: there are no kubelets that it could ask.
https://kubernetes.io/docs/tasks/extend-kubernetes/setup-extension-api-server/
"""

import http.server
import json
import ssl
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Self

from support.api_server import ApiError, ApiServer
from support.servers import wait_until

GROUP: Final = "metrics.k8s.io"
VERSION: Final = f"{GROUP}/v1beta1"
ROOT: Final = f"/apis/{VERSION}"
NAMESPACE: Final = "kube-system"
SERVICE: Final = "metrics-server"
REGISTRATION: Final = "apiregistration.k8s.io/v1"

Usage = Mapping[str, str]
"""`cpu` and `memory`, as quantities."""


class MetricsServer:
    """Answers what the pods and nodes named in `pods` and `nodes` use."""

    def __init__(self, server: ApiServer) -> None:
        self.server = server
        self.pods: dict[tuple[str, str], Mapping[str, Usage]] = {}
        """What each container uses, by namespace and name of the pod."""
        self.nodes: dict[str, Usage] = {}
        self.timestamp: datetime | None = None
        """When that was measured; None for the time of each request."""
        self.status = 200
        """The status of its answers about usage."""
        self.requests: list[str] = []
        """The paths of the requests for usage."""
        self._listener: http.server.ThreadingHTTPServer | None = None

    @property
    def written(self) -> str:
        """The time of the measurement, as the API has it."""
        return (self.timestamp or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")

    def _answer(self, path: str) -> tuple[int, Any]:
        path = path.partition("?")[0]
        if not path.startswith(f"{ROOT}/"):
            return (200, _discovery()) if path == ROOT else (404, {"kind": "Status", "code": 404})
        self.requests.append(path)
        if self.status != 200:
            return self.status, {"kind": "Status", "code": self.status, "message": "made up"}
        match path.removeprefix(f"{ROOT}/").split("/"):
            case ["nodes"]:
                return 200, self._list("NodeMetricsList", [self._node(each) for each in self.nodes])
            case ["pods"]:
                return 200, self._list("PodMetricsList", [self._pod(*each) for each in self.pods])
            case ["namespaces", namespace, "pods"]:
                inside = [self._pod(*each) for each in self.pods if each[0] == namespace]
                return 200, self._list("PodMetricsList", inside)
        return 404, {"kind": "Status", "code": 404}

    def _list(self, kind: str, items: list[Any]) -> Any:
        return {"kind": kind, "apiVersion": VERSION, "metadata": {}, "items": items}

    def _pod(self, namespace: str, name: str) -> Any:
        containers = self.pods[namespace, name]
        return {
            "metadata": {"name": name, "namespace": namespace, "creationTimestamp": self.written},
            "timestamp": self.written, "window": "15.2s",
            "containers": [{"name": each, "usage": dict(containers[each])} for each in containers],
        }  # fmt: skip

    def _node(self, name: str) -> Any:
        return {
            "metadata": {"name": name, "creationTimestamp": self.written},
            "timestamp": self.written, "window": "20.1s", "usage": dict(self.nodes[name]),
        }  # fmt: skip

    def __enter__(self) -> Self:
        answer = self._answer

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                status, body = answer(self.path)
                written = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(written)))
                self.end_headers()
                self.wfile.write(written)

            def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
                pass

        name = f"{SERVICE}.{NAMESPACE}.svc"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.server.authority.issue(SERVICE, server=True, also=[name]))
        context.load_verify_locations(self.server.ca)
        context.verify_mode = ssl.CERT_REQUIRED
        self._listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._listener.daemon_threads = True
        # Each connection's handshake in its own thread.
        self._listener.socket = context.wrap_socket(
            self._listener.socket, server_side=True, do_handshake_on_connect=False
        )
        threading.Thread(target=self._listener.serve_forever, daemon=True).start()
        self._register(self._listener.server_address[1])
        return self

    def _register(self, port: int) -> None:
        """Have the API server serve the group by us, under a Service of a name outside of it."""
        self.server.create(
            {
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"name": SERVICE, "namespace": NAMESPACE},
                "spec": {"type": "ExternalName", "externalName": "localhost"},
            }
        )  # fmt: skip
        self.server.create(
            {
                "apiVersion": REGISTRATION, "kind": "APIService",
                "metadata": {"name": f"v1beta1.{GROUP}"},
                "spec": {
                    "group": GROUP, "version": "v1beta1", "groupPriorityMinimum": 100,
                    "versionPriority": 100, "caBundle": self.server.authority.encoded,
                    "service": {"name": SERVICE, "namespace": NAMESPACE, "port": port},
                },
            }
        )  # fmt: skip
        wait_until(self.served, "metrics.k8s.io", 30)

    def served(self) -> bool:
        """Whether the API server passes questions on to us."""
        try:
            self.server.send("GET", f"{ROOT}/nodes")
        except ApiError:
            return False
        return True

    def remove(self) -> None:
        """Take the API away again, as uninstalling metrics-server does."""
        for version, kind, namespace, name in (
            (REGISTRATION, "APIService", None, f"v1beta1.{GROUP}"),
            ("v1", "Service", NAMESPACE, SERVICE),
        ):
            self.server.send("DELETE", self.server.path(version, kind, namespace, name))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.remove()
        except ApiError as found:
            if found.status != 404:
                raise
        finally:
            assert self._listener is not None
            self._listener.shutdown()
            self._listener.server_close()


def _discovery() -> Any:
    return {
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": VERSION,
        "resources": [
            {"name": "nodes", "singularName": "", "namespaced": False, "kind": "NodeMetrics",
             "verbs": ["get", "list"]},
            {"name": "pods", "singularName": "", "namespaced": True, "kind": "PodMetrics",
             "verbs": ["get", "list"]},
        ],
    }  # fmt: skip
