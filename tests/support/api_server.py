"""A real kube-apiserver with its etcd: TLS, RBAC and ServiceAccount tokens as in a cluster.

There is no kubelet, scheduler or controller: the tests play them (`patch_status`). The programs are
built by `make test-kubernetes`, or come from a folder that KUBEBUILDER_ASSETS names.
"""

import base64
import contextlib
import http.client
import json
import os
import signal
import ssl
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml
from cryptography.hazmat.primitives.asymmetric import ec

from support.authority import Authority, private_pem
from support.paths import TESTS
from support.servers import accepts, free_port, wait_until

BUILD = TESTS / "kubernetes" / "build-api-server"
READY_WITHIN = 60.0
MERGE = "application/merge-patch+json"
CLUSTER_WIDE = {
    "Namespace", "Node", "PersistentVolume", "ClusterRole", "ClusterRoleBinding", "StorageClass",
    "CustomResourceDefinition", "APIService", "PriorityClass", "IngressClass", "GatewayClass",
}  # fmt: skip
PLURALS = {
    "Ingress": "ingresses", "NetworkPolicy": "networkpolicies", "Endpoints": "endpoints",
    "GatewayClass": "gatewayclasses",
}  # fmt: skip


def programs() -> Path | None:
    """The folder with kube-apiserver and etcd, or None before it is built."""
    match = subprocess.run([BUILD, "--found"], capture_output=True, text=True, check=False)
    return Path(match.stdout.strip()) if match.returncode == 0 else None


def why_not() -> str:
    """What to do to have the programs."""
    return subprocess.run([BUILD, "--found"], capture_output=True, text=True, check=False).stderr


class ApiError(Exception):
    """The API server refused; `status` is the HTTP status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status


class ApiServerProcess:
    """kube-apiserver and etcd on ports of the system's choice; both keep them when restarted.

    `flags` are more flags of kube-apiserver, which win over those of ours.
    """

    def __init__(self, folder: Path, **flags: str) -> None:
        assets = programs()
        if assets is None:
            raise RuntimeError(why_not())
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.assets = folder, assets
        self.port, self.etcd_port, self.peer_port = free_port(), free_port(), free_port()
        self.etcd: subprocess.Popen[bytes] | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.authority = Authority(folder)
        self.ca = self.authority.path
        self._certificate = self.authority.issue("server", server=True)
        self.admin_certificate = self.authority.issue("admin", "system:masters")
        # By this one an aggregated API knows that it is the API server that asks.
        aggregator = self.authority.issue("aggregator")
        (folder / "accounts.key").write_bytes(private_pem(ec.generate_private_key(ec.SECP256R1())))
        self.flags = {
            "etcd-servers": f"http://127.0.0.1:{self.etcd_port}",
            "bind-address": "127.0.0.1",
            "secure-port": str(self.port),
            "endpoint-reconciler-type": "none",
            "cert-dir": str(folder),
            "tls-cert-file": str(self._certificate[0]),
            "tls-private-key-file": str(self._certificate[1]),
            "client-ca-file": str(self.ca),
            "proxy-client-cert-file": str(aggregator[0]),
            "proxy-client-key-file": str(aggregator[1]),
            "authorization-mode": "RBAC",
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": str(folder / "accounts.key"),
            "service-account-signing-key-file": str(folder / "accounts.key"),
            "service-cluster-ip-range": "10.96.0.0/16",
            # No controller creates the ServiceAccount that this would require.
            "disable-admission-plugins": "ServiceAccount",
            "etcd-compaction-interval": "0",
            "profiling": "false",
            **{name.replace("_", "-"): value for name, value in flags.items()},
        }
        self._local = threading.local()
        self.admin_kubeconfig = self.kubeconfig(client=self.admin_certificate)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "kube-apiserver.log").read_text("utf-8", "replace")

    def start(self) -> Self:
        if self.etcd is None:
            self._start_etcd()
        arguments = [f"--{name}={value}" for name, value in self.flags.items()]
        self.process = self._launch("kube-apiserver", *arguments)
        wait_until(self._ready, "kube-apiserver", READY_WITHIN)
        return self

    def _start_etcd(self) -> None:
        client, peer = (f"http://127.0.0.1:{port}" for port in (self.etcd_port, self.peer_port))
        self.etcd = self._launch(
            "etcd", f"--data-dir={self.folder / 'etcd'}", "--unsafe-no-fsync", "--log-level=error",
            f"--listen-client-urls={client}", f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
        )  # fmt: skip
        wait_until(lambda: accepts(self.etcd_port), "etcd")

    def _launch(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{program}.log").open("ab") as log:
            return subprocess.Popen([self.assets / program, *arguments], stdout=log, stderr=log)

    def _ready(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"kube-apiserver ended:\n{self.log[-3000:]}")
        if not accepts(self.port):
            return False
        try:
            self.send("GET", "/readyz")
            self.send("GET", "/api/v1/namespaces/default")
        except (ApiError, OSError, http.client.HTTPException):
            return False
        return True

    def signal(self, number: int) -> None:
        """Send the API server a signal."""
        assert self.process is not None
        os.kill(self.process.pid, number)

    def freeze(self) -> None:
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """End the API server as a crash would; etcd goes on, and `start` starts it again."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def compact(self) -> int:
        """Make etcd forget what was before now; the revision that it still knows."""
        status = self._etcd("/v3/maintenance/status", {})
        revision = int(status["header"]["revision"])
        self._etcd("/v3/kv/compaction", {"revision": revision, "physical": True})
        return revision

    def _etcd(self, path: str, body: Mapping[str, Any]) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.etcd_port, timeout=10)
        try:
            connection.request("POST", path, json.dumps(body))
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def stop(self) -> None:
        for process in (self.process, self.etcd):
            if process is None:
                continue
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)
            process.kill()
            process.wait()
        self.process = self.etcd = None

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # Requests, as the administrator or by a token

    def _connection(self, *, reconnect: bool) -> http.client.HTTPSConnection:
        held: http.client.HTTPSConnection | None = getattr(self._local, "connection", None)
        if held is None or reconnect:
            context = ssl.create_default_context(cafile=str(self.ca))
            context.load_cert_chain(*self.admin_certificate)
            held = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=20, context=context)
            self._local.connection = held
        return held

    def send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        token: str | None = None,
        content_type: str = "application/json",
    ) -> Any:
        """The answer to a request, decoded. Raises `ApiError`."""
        headers = {"content-type": content_type, "accept": "application/json"}
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
            connection = http.client.HTTPSConnection(
                "127.0.0.1", self.port, timeout=20,
                context=ssl.create_default_context(cafile=str(self.ca)),
            )  # fmt: skip
        else:
            connection = self._connection(reconnect=False)
        encoded = json.dumps(body) if body is not None else None
        try:
            connection.request(method, path, encoded, headers)
            response = connection.getresponse()
        except (http.client.HTTPException, OSError):
            connection.close()
            if token is not None:
                raise
            connection = self._connection(reconnect=True)
            connection.request(method, path, encoded, headers)
            response = connection.getresponse()
        text = response.read().decode()
        if response.status >= 400:
            raise ApiError(response.status, text)
        with contextlib.suppress(json.JSONDecodeError):
            return json.loads(text)
        return text

    def kubeconfig(
        self,
        *,
        token: str | None = None,
        token_file: Path | None = None,
        client: tuple[Path, Path] | None = None,
        exec_plugin: Sequence[str] = (),
        server: str | None = None,
        path: Path | None = None,
    ) -> Path:
        """Write a kubeconfig with the context `tests`; its path."""
        user: dict[str, Any] = {}
        if token is not None:
            user["token"] = token
        if token_file is not None:
            user["tokenFile"] = str(token_file)
        if client is not None:
            user["client-certificate-data"] = base64.b64encode(client[0].read_bytes()).decode()
            user["client-key-data"] = base64.b64encode(client[1].read_bytes()).decode()
        if exec_plugin:
            user["exec"] = {
                "apiVersion": "client.authentication.k8s.io/v1",
                "command": exec_plugin[0],
                "args": list(exec_plugin[1:]),
                "interactiveMode": "Never",
            }
        cluster = {
            "server": server or self.url, "certificate-authority-data": self.authority.encoded,
        }  # fmt: skip
        path = path or self.folder / ("admin.kubeconfig" if client else "kubeconfig")
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "tests",
                    "contexts": [{"name": "tests", "context": {"cluster": "it", "user": "who"}}],
                    "clusters": [{"name": "it", "cluster": cluster}],
                    "users": [{"name": "who", "user": user}],
                }
            )
        )
        return path


class ApiServer(ApiServerProcess):
    """An API server, with shorthands for the objects of tests."""

    def path(
        self, api_version: str, kind: str, namespace: str | None = None, name: str = ""
    ) -> str:
        """The address of objects of a kind, or of one."""
        root = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
        plural = PLURALS.get(kind, f"{kind.lower()}s")
        inside = f"/namespaces/{namespace or 'default'}" if kind not in CLUSTER_WIDE else ""
        return f"{root}{inside}/{plural}" + (f"/{name}" if name else "")

    def _path_of(self, thing: Mapping[str, Any], *, named: bool) -> str:
        metadata = thing["metadata"]
        return self.path(
            thing["apiVersion"], thing["kind"], metadata.get("namespace"),
            metadata["name"] if named else "",
        )  # fmt: skip

    def create(self, thing: Mapping[str, Any]) -> dict[str, Any]:
        """Create an object; its status is taken in by a second request where it has one."""
        made: dict[str, Any] = self.send("POST", self._path_of(thing, named=False), thing)
        if "status" in thing:
            made = self.patch_status(made, thing["status"])
        return made

    def patch(self, thing: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
        """Merge a change into an object."""
        path = self._path_of(thing, named=True)
        changed: dict[str, Any] = self.send("PATCH", path, change, content_type=MERGE)
        return changed

    def patch_status(self, thing: Mapping[str, Any], status: Mapping[str, Any]) -> dict[str, Any]:
        """Merge a change into an object's status, as a kubelet or a controller does."""
        path = self._path_of(thing, named=True) + "/status"
        changed: dict[str, Any] = self.send("PATCH", path, {"status": status}, content_type=MERGE)
        return changed

    def delete(self, thing: Mapping[str, Any]) -> None:
        """Delete an object at once."""
        self.send("DELETE", self._path_of(thing, named=True), {"gracePeriodSeconds": 0})

    def namespace(self, name: str) -> str:
        """Make a namespace; its name."""
        self.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        return name

    def remove_namespace(self, name: str) -> None:
        """Delete a namespace and what is in it, as the namespace controller would."""
        path = f"/api/v1/namespaces/{name}"
        self.send("DELETE", path)
        for kind in ("pods", "serviceaccounts", "services", "events", "secrets", "configmaps"):
            match = self.send("GET", f"{path}/{kind}")
            for item in match["items"]:
                with contextlib.suppress(ApiError):
                    self.send(
                        "DELETE", f"{path}/{kind}/{item['metadata']['name']}",
                        {"gracePeriodSeconds": 0},
                    )  # fmt: skip
        left = self.send("GET", path)
        left["spec"] = {"finalizers": []}
        self.send("PUT", f"{path}/finalize", left)

    def pod(self, namespace: str, name: str, **more: Any) -> dict[str, Any]:
        """A pod of one container, running and ready; `more` are parts that replace those."""
        pod: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"namespace": namespace, "name": name},
            "spec": {"containers": [{"name": "main", "image": "example.org/main:1.2"}]},
            "status": {
                "phase": "Running",
                "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [container("main")],
            },
        }
        pod["metadata"].update(more.pop("metadata", {}))
        return self.create({**pod, **more})

    def service_account(self, namespace: str, name: str) -> str:
        """Make a ServiceAccount; a token for it."""
        metadata = {"namespace": namespace, "name": name}
        self.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
        return self.token(namespace, name)

    def token(self, namespace: str, name: str, seconds: int = 3600) -> str:
        """A new token of a ServiceAccount, good for so many seconds (600 at least)."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": seconds},
        }
        return str(self.send("POST", path, request)["status"]["token"])

    def allow(
        self,
        account: str,
        rules: Sequence[Mapping[str, Any]],
        namespace: str | None = None,
        name: str = "tests",
    ) -> None:
        """Grant rules to the ServiceAccount `namespace/name`: in a namespace, or everywhere."""
        prefix = "" if namespace else "Cluster"
        metadata: dict[str, Any] = {"name": name}
        if namespace:
            metadata["namespace"] = namespace
        api = "rbac.authorization.k8s.io"
        of, _, called = account.partition("/")
        self.create(
            {"apiVersion": f"{api}/v1", "kind": f"{prefix}Role", "metadata": metadata,
             "rules": list(rules)}
        )  # fmt: skip
        self.create(
            {"apiVersion": f"{api}/v1", "kind": f"{prefix}RoleBinding", "metadata": metadata,
             "roleRef": {"apiGroup": api, "kind": f"{prefix}Role", "name": name},
             "subjects": [{"kind": "ServiceAccount", "namespace": of, "name": called}]}
        )  # fmt: skip

    def disallow(self, namespace: str | None = None, name: str = "tests") -> None:
        """Take back what `allow` granted."""
        prefix = "" if namespace else "Cluster"
        for kind in (f"{prefix}RoleBinding", f"{prefix}Role"):
            self.send("DELETE", self.path("rbac.authorization.k8s.io/v1", kind, namespace, name))

    def apply(self, document: str) -> None:
        """Create every object of a YAML document."""
        for thing in yaml.safe_load_all(document):
            if thing:
                self.create(thing)


def container(name: str, **more: Any) -> dict[str, Any]:
    """The status of a container that runs."""
    return {
        "name": name,
        "image": "example.org/main:1.2",
        "imageID": "",
        "ready": True,
        "started": True,
        "restartCount": 0,
        "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
        **more,
    }
