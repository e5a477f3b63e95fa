"""A node for the real API server and controllers, whose pods are processes of this machine.

What a container engine does is done with what the kernel offers root (root.py): each container has
the image as its root, read-only, and the volumes of its pod. kubectl reaches it through the program
that tests/kubernetes/apiserver/node builds. Pods have one address of this machine, and names of
services lead there. There is no scheduler and no proxy of services, so a service must have the port
of its pods.
"""

import base64
import contextlib
import datetime
import os
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Self

from support.api_server import ApiError, ApiServer
from support.chart.engine import Tree
from support.chart.image import ENVIRONMENT, Image
from support.chart.root import isolated
from support.servers import accepts, free_port, wait_until

CONTROLLERS = (
    "statefulset-controller", "deployment-controller", "replicaset-controller", "job-controller",
    "endpointslice-controller", "root-ca-certificate-publisher-controller",
    "serviceaccount-controller", "garbage-collector-controller",
)  # fmt: skip
USER = 10001
LOOK = 0.2
"""Seconds between looks at the pods and at their probes."""


class Node:
    """The controllers of Kubernetes and a node, for the pods of one namespace."""

    def __init__(
        self, server: ApiServer, programs: Path, folder: Path, image: Image, *, address: str,
        namespace: str,
    ) -> None:  # fmt: skip
        self.server, self.programs, self.folder, self.image = server, programs, folder, image
        self.address, self.namespace = address, namespace
        self.port, self.failures = free_port(), list[str]()
        self.claims = folder / "claims"
        self._over, self._threads = threading.Event(), list[threading.Thread]()
        self._processes: list[subprocess.Popen[bytes]] = []
        (folder / "pids").mkdir(parents=True)
        (folder / "hosts").write_text("127.0.0.1 localhost\n")

    def __enter__(self) -> Self:
        certificate, key = self.server.authority.issue("node", server=True)
        controllers = free_port()
        self._launch(
            "kube-controller-manager", f"--kubeconfig={self.server.admin_kubeconfig}",
            f"--service-account-private-key-file={self.server.folder / 'accounts.key'}",
            f"--root-ca-file={self.server.ca}", "--leader-elect=false", "--bind-address=127.0.0.1",
            f"--secure-port={controllers}", f"--cert-dir={self.folder}",
            f"--controllers={','.join(CONTROLLERS)}",
        )  # fmt: skip
        self._launch(
            "node", f"--folder={self.folder / 'pids'}", f"--address={self.address}",
            f"--listen=127.0.0.1:{self.port}", f"--certificate={certificate}", f"--key={key}",
        )  # fmt: skip
        subprocess.run(["ip", "address", "replace", f"{self.address}/32", "dev", "lo"], check=True)
        self.server.create(
            {
                "apiVersion": "v1", "kind": "Node", "metadata": {"name": "node"},
                "status": {
                    "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
                    "daemonEndpoints": {"kubeletEndpoint": {"Port": self.port}},
                    "conditions": [condition("Ready", True)],
                },
            }
        )  # fmt: skip
        wait_until(lambda: accepts(self.port) and accepts(controllers), "the controllers", 60)
        self._begin(self._look)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for each in self._threads:
            each.join(60)
        for process in self._processes:
            process.terminate()
            process.wait(30)
        subprocess.run(["ip", "address", "delete", f"{self.address}/32", "dev", "lo"], check=True)

    def knows(self, service: str) -> None:
        """Let the pods find a service by its names, as the cluster's DNS does."""
        full = f"{service}.{self.namespace}"
        with (self.folder / "hosts").open("a") as hosts:
            hosts.write(f"{self.address} {service} {full} {full}.svc {full}.svc.cluster.local\n")

    def _launch(self, program: str, *arguments: str) -> None:
        with (self.folder / f"{program}.log").open("ab") as log:
            self._processes.append(
                subprocess.Popen([self.programs / program, *arguments], stdout=log, stderr=log)
            )

    def _begin(self, what: Any, *arguments: Any) -> None:
        def guarded() -> None:
            try:
                what(*arguments)
            except BaseException as error:
                self.failures.append(f"{what.__name__}: {error!r}")
                raise

        thread = threading.Thread(target=guarded)
        self._threads.append(thread)
        thread.start()

    def _look(self) -> None:
        known: set[str] = set()
        while not self._over.wait(LOOK):
            for pod in self.server.send("GET", self._pods())["items"]:
                if pod["metadata"]["uid"] not in known:
                    known.add(pod["metadata"]["uid"])
                    self._begin(self._live, pod)

    def _pods(self, name: str = "") -> str:
        return self.server.path("v1", "Pod", self.namespace, name)

    def _live(self, pod: Tree) -> None:
        """A pod from its binding to its end."""
        name, spec = pod["metadata"]["name"], pod["spec"]
        assert not spec.get("initContainers"), "this node runs no init containers"
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
                   "target": {"kind": "Node", "name": "node"}}  # fmt: skip
        self.server.send("POST", f"{self._pods(name)}/binding", binding)
        running = {each["name"]: self._start(pod, each) for each in spec["containers"]}
        reported: object = None
        deadline = float("inf")
        try:
            while True:
                codes = {each: process.poll() for each, process in running.items()}
                ended = None not in codes.values()
                ready = not ended and all(self._ready(each) for each in spec["containers"])
                if (codes, ready) != reported:
                    reported = codes, ready
                    self.server.send(
                        "PATCH", f"{self._pods(name)}/status",
                        {"status": self._status(pod, codes, ready)},
                        content_type="application/merge-patch+json",
                    )  # fmt: skip
                going = self.server.send("GET", self._pods(name))["metadata"]
                if ended and going.get("deletionTimestamp"):
                    self.server.send("DELETE", f"{self._pods(name)}?gracePeriodSeconds=0")
                    return
                if ended and spec["restartPolicy"] == "Never":
                    return
                if ended:
                    raise AssertionError(f"a container of {name} ended by itself: {codes}")
                if deadline == float("inf") and going.get("deletionTimestamp"):
                    deadline = time.monotonic() + going["deletionGracePeriodSeconds"]
                    for process in running.values():
                        process.send_signal(signal.SIGTERM)
                if time.monotonic() > deadline:
                    raise AssertionError(f"{name} did not end in time")
                if self._over.wait(LOOK):
                    return
        except ApiError as error:
            if error.status != 404:
                raise
        finally:
            for each, process in running.items():
                (self.folder / "pids" / f"{self.namespace}_{name}_{each}.pid").unlink()
                process.kill()
                process.wait()

    def _start(self, pod: Tree, container: Tree) -> subprocess.Popen[bytes]:
        name = f"{self.namespace}_{pod['metadata']['name']}_{container['name']}"
        place = self.folder / "pods" / pod["metadata"]["uid"]
        volumes = {each["name"]: self._volume(each, place, pod) for each in pod["spec"]["volumes"]}
        readable, writable = {"/etc/hosts": self.folder / "hosts"}, dict[str, Path]()
        for each in container["volumeMounts"]:
            mounts = readable if each.get("readOnly") else writable
            mounts[each["mountPath"]] = volumes[each["name"]] / each.get("subPath", "")
        environment = {
            **ENVIRONMENT,
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(self.server.port),
        }
        for each in container.get("env", []):
            environment[each["name"]] = each.get("value") or pod["metadata"]["uid"]
        config: Any = self.image.config
        command = [
            *(container.get("command") or config["Entrypoint"]),
            *(container.get("args") or ([] if container.get("command") else config["Cmd"])),
        ]
        for variable, value in environment.items():
            command = [each.replace(f"$({variable})", value) for each in command]
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                isolated(
                    self.image.root, command, environment=environment, writable=writable,
                    readable=readable, uid=USER,
                ),
                stdout=log, stderr=log,
            )  # fmt: skip
        file = self.folder / "pids" / f"{name}.pid"
        file.write_text(str(process.pid))
        wait_until(lambda: self._inside(process), f"the container of {name}")
        return process

    def _inside(self, process: subprocess.Popen[bytes]) -> bool:
        if process.poll() is not None:
            return True
        with contextlib.suppress(OSError):
            return Path(f"/proc/{process.pid}/root").readlink() != Path("/")
        return False

    def _volume(self, volume: Tree, place: Path, pod: Tree) -> Path:
        """The folder of a volume, with what is in it."""
        folder = place / volume["name"]
        if "persistentVolumeClaim" in volume:
            folder = self.claims / volume["persistentVolumeClaim"]["claimName"]
        folder.mkdir(parents=True, exist_ok=True)
        os.chown(folder, USER, USER)
        if "configMap" in volume:
            self._files(folder, "ConfigMap", volume["configMap"]["name"])
        if "secret" in volume:
            self._files(folder, "Secret", volume["secret"]["secretName"])
        for each in volume.get("projected", {}).get("sources", []):
            if "configMap" in each:
                self._files(folder, "ConfigMap", each["configMap"]["name"])
            elif "serviceAccountToken" in each:
                account = pod["spec"]["serviceAccountName"]
                (folder / "token").write_text(self.server.token(self.namespace, account))
            else:
                (folder / "namespace").write_text(self.namespace)
        return folder

    def _files(self, folder: Path, kind: str, name: str) -> None:
        result = self.server.send("GET", self.server.path("v1", kind, self.namespace, name))
        for key, text in result.get("data", {}).items():
            data = base64.b64decode(text) if kind == "Secret" else text.encode()
            (folder / key).write_bytes(data)

    def _ready(self, container: Tree) -> bool:
        probe = container.get("readinessProbe")
        if probe is None:
            return True
        port = container["ports"][0]["containerPort"]
        url = f"http://{self.address}:{port}{probe['httpGet']['path']}"
        request = urllib.request.Request(url, headers={"User-Agent": "kube-probe/1.37"})
        try:
            with urllib.request.urlopen(request, timeout=probe["timeoutSeconds"]) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def _status(self, pod: Tree, codes: dict[str, int | None], ready: bool) -> Tree:
        phase = "Running"
        if None not in codes.values() and pod["spec"]["restartPolicy"] == "Never":
            phase = "Failed" if any(codes.values()) else "Succeeded"
        return {
            "phase": phase, "podIP": self.address, "podIPs": [{"ip": self.address}],
            "hostIP": "127.0.0.1", "startTime": now(),
            "conditions": [
                condition("PodScheduled", True), condition("Initialized", True),
                condition("ContainersReady", ready), condition("Ready", ready),
            ],
            "containerStatuses": [
                {
                    "name": each["name"], "image": each["image"], "imageID": "", "restartCount": 0,
                    "ready": ready, "started": codes[each["name"]] is None,
                    "state": {"running": {"startedAt": now()}} if codes[each["name"]] is None
                    else {"terminated": {"exitCode": abs(codes[each["name"]] or 0)}},
                }
                for each in pod["spec"]["containers"]
            ],
        }  # fmt: skip


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def condition(kind: str, holds: bool) -> Tree:
    return {"type": kind, "status": str(holds), "lastTransitionTime": now()}
