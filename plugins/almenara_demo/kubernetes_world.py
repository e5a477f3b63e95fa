"""The objects of a simulated Kubernetes cluster that runs an AI fleet, and what happens to them.

Objects are trees of the Kubernetes API.
"""

import itertools
import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec

from almenara.signals import format_time
from almenara.units import DAY, HOUR, SECOND

Tree = dict[str, Any]
GIB: Final = 2**30


class Kind(msgspec.Struct, frozen=True):
    """A kind of object, and where the API serves it."""

    kind: str
    api_version: str
    plural: str
    namespaced: bool = True

    @property
    def path(self) -> str:
        """The path of its API group and version."""
        return f"/{'apis' if '/' in self.api_version else 'api'}/{self.api_version}"


PODS: Final = Kind("Pod", "v1", "pods")
REPLICA_SETS: Final = Kind("ReplicaSet", "apps/v1", "replicasets")
DEPLOYMENTS: Final = Kind("Deployment", "apps/v1", "deployments")
STATEFUL_SETS: Final = Kind("StatefulSet", "apps/v1", "statefulsets")
DAEMON_SETS: Final = Kind("DaemonSet", "apps/v1", "daemonsets")
JOBS: Final = Kind("Job", "batch/v1", "jobs")
CRON_JOBS: Final = Kind("CronJob", "batch/v1", "cronjobs")
NODES: Final = Kind("Node", "v1", "nodes", namespaced=False)
SERVICES: Final = Kind("Service", "v1", "services")
ENDPOINT_SLICES: Final = Kind("EndpointSlice", "discovery.k8s.io/v1", "endpointslices")
INGRESSES: Final = Kind("Ingress", "networking.k8s.io/v1", "ingresses")
CLAIMS: Final = Kind("PersistentVolumeClaim", "v1", "persistentvolumeclaims")
AUTOSCALERS: Final = Kind("HorizontalPodAutoscaler", "autoscaling/v2", "horizontalpodautoscalers")
CERTIFICATES: Final = Kind("Certificate", "cert-manager.io/v1", "certificates")
EVENTS: Final = Kind("Event", "events.k8s.io/v1", "events")
KINDS: Final = (
    PODS, REPLICA_SETS, DEPLOYMENTS, STATEFUL_SETS, DAEMON_SETS, JOBS, CRON_JOBS, NODES,
    SERVICES, ENDPOINT_SLICES, INGRESSES, CLAIMS, AUTOSCALERS, CERTIFICATES, EVENTS,
)  # fmt: skip
PODS_OF_A_NODE: Final = 18
CONSIDERED: Final = 24
"""Nodes that a pod may be placed on, as a scheduler looks at some of many."""
TEAM: Final = 25


class Kept(msgspec.Struct, frozen=True):
    """A workload of the fleet: how many pods, and what each asks for."""

    namespace: str
    name: str
    kind: str
    replicas: int
    image: str
    cpu: float
    memory: float
    """GiB."""
    gpus: int = 0
    part_of: str = ""
    port: int = 0
    sidecar: bool = False


def _of(*rows: tuple[Any, ...]) -> Sequence[Kept]:
    return [Kept(*row) for row in rows]


FLEET: Final = _of(
    ("inference", "vllm-qwen-coder", "StatefulSet", 4, "vllm/vllm-openai:v0.11.0", 8, 48, 1, "inference", 8000),
    ("inference", "vllm-embeddings", "Deployment", 2, "vllm/vllm-openai:v0.11.0", 4, 16, 1, "inference", 8000),
    ("inference", "model-gateway", "Deployment", 3, "example/model-gateway:2.4.1", 0.5, 1, 0, "inference", 8080, True),
    ("ray", "fleet-head", "RayCluster", 1, "rayproject/ray:2.52.0-py312", 2, 8, 0, "ray", 8265),
    ("ray", "fleet-workers", "RayCluster", 8, "rayproject/ray:2.52.0-py312", 4, 16, 0, "ray"),
    ("council", "council-dev", "Deployment", 6, "example/council:1.18.0", 0.5, 1, 0, "council", 8080),
    ("council", "council-qa", "Deployment", 4, "example/council:1.18.0", 0.5, 1, 0, "council", 8080),
    ("council", "council-architect", "Deployment", 3, "example/council:1.18.0", 0.5, 1, 0, "council", 8080),
    ("council", "council-devops", "Deployment", 3, "example/council:1.18.0", 0.5, 1, 0, "council", 8080),
    ("council", "council-data", "Deployment", 3, "example/council:1.18.0", 0.5, 1, 0, "council", 8080),
    ("council", "orchestrator", "Deployment", 2, "example/orchestrator:3.2.0", 1, 2, 0, "council", 8080, True),
    ("planning", "planning-api", "Deployment", 3, "example/planning:5.0.3", 0.25, 0.5, 0, "planning", 8080, True),
    ("planning", "planning-worker", "Deployment", 4, "example/planning:5.0.3", 0.5, 1, 0, "planning"),
    ("planning", "story-board", "Deployment", 2, "example/story-board:5.0.3", 0.1, 0.25, 0, "planning", 3000),
    ("context", "context-service", "Deployment", 3, "example/context:0.27.2", 0.5, 1.5, 0, "context", 8080),
    ("context", "context-indexer", "Deployment", 2, "example/context-indexer:0.27.2", 1, 2, 0, "context"),
    ("context", "neo4j", "StatefulSet", 3, "neo4j:5.26-enterprise", 2, 8, 0, "context", 7687),
    ("context", "valkey", "StatefulSet", 3, "valkey/valkey:8.1", 0.5, 4, 0, "context", 6379),
    ("messaging", "nats", "StatefulSet", 3, "nats:2.12-alpine", 1, 2, 0, "messaging", 4222),
    ("messaging", "nats-surveyor", "Deployment", 1, "natsio/nats-surveyor:0.9.4", 0.1, 0.1, 0, "messaging"),
    ("monitoring", "prometheus", "StatefulSet", 2, "prom/prometheus:v3.7.0", 1, 4, 0, "monitoring", 9090),
    ("monitoring", "alertmanager", "StatefulSet", 2, "prom/alertmanager:v0.29.0", 0.1, 0.25, 0, "monitoring", 9093),
    ("monitoring", "node-exporter", "DaemonSet", 0, "prom/node-exporter:v1.10.0", 0.1, 0.1, 0, "monitoring"),
    ("ingress", "ingress-nginx", "Deployment", 2, "ingress-nginx/controller:v1.14.0", 0.5, 0.5, 0, "ingress", 443),
    ("cert-manager", "cert-manager", "Deployment", 1, "jetstack/cert-manager:v1.19.0", 0.1, 0.1, 0, "cert-manager"),
    ("kube-system", "coredns", "Deployment", 2, "coredns/coredns:v1.13.0", 0.1, 0.1, 0, "kube-system", 53),
    ("kube-system", "kube-proxy", "DaemonSet", 0, "kube-proxy:v1.37.2", 0.1, 0.1, 0, "kube-system"),
    ("kube-system", "metrics-server", "Deployment", 1, "metrics-server:v0.8.0", 0.1, 0.2, 0, "kube-system", 443),
)  # fmt: skip
"""What the fleet runs; a DaemonSet has a pod on every node."""

LINES: Final = (
    "accepted task {task} for role DEV", "deliberation {task}: 3 agents, round 2 of 3",
    "tokens out 1,482 in 3.4 s (436/s)", "context cache hit for story {task}",
    "heartbeat ok", "acknowledged orchestration.task.dispatched {task}",
    "WARN retrying call to the model gateway in 2 s", "proposal of agent-dev-002 chosen, 0.81",
    "ERROR the model did not answer within 30 s: {task}", "GET /healthz 200 1 ms",
)  # fmt: skip
"""What its programs write."""


class Change(msgspec.Struct, frozen=True):
    """An object that is different, or gone."""

    kind: Kind
    tree: Tree
    deleted: bool = False


Steps = Iterator[float]
"""Something that goes on for a while: it yields the seconds until it goes on."""


class World:
    """The objects of the cluster. `seed` settles what happens; `clock` gives microseconds."""

    def __init__(self, pods: int, clock: Callable[[], int], seed: int = 0) -> None:
        self.random = random.Random(seed)  # nosec B311 # makes up a cluster
        self.clock = clock
        self.born = clock()
        self.objects: dict[str, dict[tuple[str, str], Tree]] = {}
        self.changes: list[Change] = []
        self._running: list[tuple[float, Steps]] = []
        self._numbers = itertools.count(1)
        self._busy: set[str] = set()
        self._placed: dict[str, int] = {}
        kept = list(FLEET)
        base = sum(it.replicas for it in kept)
        for number in range(1, max(0, pods - base) // TEAM + 1):
            kept += self._team(number)
        self.nodes = self._nodes(
            sum(it.replicas for it in kept), sum(it.gpus * it.replicas for it in kept)
        )
        self.kept = {f"{it.namespace}/{it.name}": it for it in kept}
        for it in kept:
            self._workload(it)
        self._rest()
        self.changes.clear()

    def _team(self, number: int) -> Sequence[Kept]:
        """What the n-th team runs besides: 25 pods."""
        namespace = f"team-{number:03d}"
        return _of(
            (namespace, "api", "Deployment", 6, f"example/api:{1 + number % 4}.{number % 9}.0", 0.25, 0.5, 0, namespace, 8080),
            (namespace, "worker", "Deployment", 12, f"example/worker:{1 + number % 3}.2.{number % 7}", 0.5, 1, 0, namespace),
            (namespace, "web", "Deployment", 4, "example/web:7.1.0", 0.1, 0.25, 0, namespace, 3000),
            (namespace, "postgres", "StatefulSet", 3, "postgres:18.0", 1, 4, 0, namespace, 5432),
        )  # fmt: skip

    # Objects

    def put(self, kind: Kind, tree: Tree) -> Tree:
        """Make or change an object."""
        metadata = tree["metadata"]
        metadata["resourceVersion"] = str(next(self._numbers))
        self.objects.setdefault(kind.kind, {})[metadata.get("namespace", ""), metadata["name"]] = (
            tree
        )
        self.changes.append(Change(kind, tree))
        return tree

    def remove(self, kind: Kind, tree: Tree) -> None:
        """Delete an object."""
        metadata = tree["metadata"]
        self.objects[kind.kind].pop((metadata.get("namespace", ""), metadata["name"]), None)
        self.changes.append(Change(kind, tree, deleted=True))

    def metadata(self, namespace: str, name: str, age: int | None = None, **more: Any) -> Tree:
        """The metadata of an object of an age in microseconds; without one it is new."""
        created = self.clock() if age is None else self.born - age
        identity = uuid.uuid5(
            uuid.NAMESPACE_URL, f"{self.born}/{namespace}/{name}/{next(self._numbers)}"
        )
        found: Tree = {
            "name": name,
            "uid": str(identity),
            "creationTimestamp": format_time(created),
            "generation": 1,
        }
        return found | ({"namespace": namespace} if namespace else {}) | more  # fmt: skip

    def age(self) -> int:
        """An age that things of a cluster have."""
        return int(self.random.choice((3 * HOUR, 14 * HOUR, 2 * DAY, 9 * DAY, 31 * DAY)) * self.random.uniform(0.5, 1.5))  # fmt: skip

    def stamp(self, ago: float = 0.0) -> str:
        """A time so many seconds ago."""
        return format_time(self.clock() - int(ago * SECOND))

    def _nodes(self, pods: int, gpus: int) -> list[str]:
        names = [f"gpu-{number}" for number in range(1, gpus // 2 + 2)]
        plain = max(4, -(-pods // PODS_OF_A_NODE))
        names += [f"worker-{number:02d}" for number in range(1, plain + 1)]
        for place, name in enumerate(names):
            gpu = name.startswith("gpu")
            allocatable = {
                "cpu": "32" if gpu else "24",
                "memory": f"{256 if gpu else 96}Gi",
                "pods": "110",
            }
            self.put(NODES, {
                "metadata": self.metadata("", name, 40 * DAY, labels={
                    "topology.kubernetes.io/zone": f"zone-{'abc'[place % 3]}",
                    "node.kubernetes.io/instance-type": "gpu.2xl" if gpu else "std.4xl",
                }),
                "spec": {"taints": [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}] if gpu else []},
                "status": {
                    "allocatable": allocatable | ({"nvidia.com/gpu": "2"} if gpu else {}),
                    "conditions": [
                        {"type": "MemoryPressure", "status": "False", "reason": "KubeletHasSufficientMemory"},
                        {"type": "DiskPressure", "status": "False", "reason": "KubeletHasNoDiskPressure"},
                        {"type": "Ready", "status": "True", "reason": "KubeletReady",
                         "message": "kubelet is posting ready status", "lastTransitionTime": format_time(self.born - 40 * DAY)},
                    ],
                    "nodeInfo": {"kubeletVersion": "v1.37.2", "osImage": "Debian GNU/Linux 13", "architecture": "amd64",
                                 "containerRuntimeVersion": "containerd://2.2.0"},
                },
            })  # fmt: skip
        return names

    def _node_for(self, it: Kept) -> str:
        wanted = [name for name in self.nodes if name.startswith("gpu") == bool(it.gpus)]
        name = min(
            self.random.sample(wanted, min(len(wanted), CONSIDERED)),
            key=lambda one: (
                self._placed.get(one, 0) + self.random.random() * (0.5 if it.gpus else 3)
            ),
        )
        self._placed[name] = self._placed.get(name, 0) + 1
        return name

    def _workload(self, it: Kept) -> None:
        age = self.age()
        watched = {"Deployment": DEPLOYMENTS, "StatefulSet": STATEFUL_SETS, "DaemonSet": DAEMON_SETS}.get(it.kind)  # fmt: skip
        labels = self._labels(it)
        owner: Tree
        if watched is None:
            # A custom resource that owns its pods: its operator is not simulated, only its pods.
            owner = {"kind": it.kind, "name": "fleet", "uid": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{self.born}/fleet")), "controller": True}  # fmt: skip
            names = [f"{it.name}-{self._suffix()}" for _ in range(it.replicas)]
        else:
            tree = self.put(watched, {
                "metadata": self.metadata(it.namespace, it.name, age, labels=labels, annotations={
                    "deployment.kubernetes.io/revision": str(self.random.randint(2, 40)),
                    "deprecated.daemonset.template.generation": "3",
                }),
                "spec": {"replicas": it.replicas, "template": {"spec": self._spec(it)},
                         "selector": {"matchLabels": {"app": it.name}},
                         "strategy": {"type": "RollingUpdate"}},
                "status": {},
            })  # fmt: skip
            owner = _reference(it.kind, tree)
            if it.kind == "Deployment":
                owner = _reference("ReplicaSet", self._replica_set(it, tree, age))
                names = [f"{owner['name']}-{self._suffix()}" for _ in range(it.replicas)]
            elif it.kind == "DaemonSet":
                names = [f"{it.name}-{self._suffix()}" for _ in self.nodes]
            else:
                names = [f"{it.name}-{number}" for number in range(it.replicas)]
        for place, name in enumerate(names):
            node = self.nodes[place] if it.kind == "DaemonSet" else self._node_for(it)
            self.put(PODS, self._pod(it, name, owner, node, int(age * self.random.uniform(0.2, 1))))
        self.count(it)
        if it.port:
            self._service(it)

    def _labels(self, it: Kept) -> Tree:
        return {"app": it.name, "app.kubernetes.io/name": it.name, "app.kubernetes.io/part-of": it.part_of}  # fmt: skip

    def _suffix(self) -> str:
        return "".join(self.random.choices("bcdfghjklmnpqrstvwxz2456789", k=5))

    def _replica_set(self, it: Kept, above: Tree, age: int | None) -> Tree:
        return self.put(REPLICA_SETS, {
            "metadata": self.metadata(it.namespace, f"{it.name}-{self._suffix()}{self._suffix()[:4]}", age,
                                      ownerReferences=[_reference("Deployment", above)]),
            "spec": {"replicas": it.replicas}, "status": {},
        })  # fmt: skip

    def _spec(self, it: Kept) -> Tree:
        devices = {"nvidia.com/gpu": str(it.gpus)} if it.gpus else {}
        main = {
            "name": it.name.split("-")[0] if it.kind != "RayCluster" else "ray", "image": it.image,
            "resources": {
                "requests": {"cpu": f"{it.cpu * 1000:.0f}m", "memory": f"{it.memory * 1024:.0f}Mi", **devices},
                "limits": {"cpu": f"{it.cpu * 2000:.0f}m", "memory": f"{it.memory * 1536:.0f}Mi", **devices},
            },
            "ports": [{"containerPort": it.port}] if it.port else [],
            "env": [{"name": "ROLE", "value": it.name},
                    {"name": "NATS_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "nats", "key": "password"}}}],
        }  # fmt: skip
        inits = [{"name": "proxy", "image": "example/proxy:1.9", "restartPolicy": "Always",
                  "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}}}] if it.sidecar else []  # fmt: skip
        if it.gpus:
            inits.append({"name": "fetch-weights", "image": "example/fetch:1.2", "resources": {}})
        return {"containers": [main], "initContainers": inits, "serviceAccountName": it.name}

    def _pod(self, it: Kept, name: str, owner: Tree, node: str, age: int | None) -> Tree:
        spec = self._spec(it) | {"nodeName": node}
        tree: Tree = {
            "metadata": self.metadata(it.namespace, name, age, labels=self._labels(it), ownerReferences=[owner]),
            "spec": spec,
            "status": {"phase": "Pending", "qosClass": "Burstable", "podIP": f"10.{self.random.randint(1, 60)}.{self.random.randint(0, 255)}.{self.random.randint(1, 254)}"},
        }  # fmt: skip
        if age is None:
            self.starts(tree)
        else:
            self.runs(tree, since=format_time(self.born - age + 20 * SECOND))
            if self.random.random() < 0.06:
                status = tree["status"]["containerStatuses"][0]
                status["restartCount"] = self.random.randint(1, 3)
                long_ago = format_time(self.born - self.random.randint(1, 20) * HOUR)
                status["lastState"] = {
                    "terminated": {"exitCode": 1, "reason": "Error", "finishedAt": long_ago}
                }
        return tree

    # States of a pod

    def _statuses(self, tree: Tree, state: Tree, *, ready: bool) -> None:
        old = {it["name"]: it for it in tree["status"].get("containerStatuses", ())}
        tree["status"]["containerStatuses"] = [
            {
                "name": it["name"], "image": it["image"], "ready": ready, "started": ready, "state": state,
                "restartCount": old.get(it["name"], {}).get("restartCount", 0),
                "lastState": old.get(it["name"], {}).get("lastState", {}),
            }
            for it in tree["spec"]["containers"]
        ]  # fmt: skip

    def _ready(
        self, tree: Tree, ready: bool, since: str, reason: str = "ContainersNotReady"
    ) -> None:
        truth = "True" if ready else "False"
        tree["status"]["conditions"] = [
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": tree["metadata"]["creationTimestamp"]},
            {"type": "Initialized", "status": "True", "lastTransitionTime": tree["metadata"]["creationTimestamp"]},
            {"type": "Ready", "status": truth, "lastTransitionTime": since, **({} if ready else {"reason": reason})},
        ]  # fmt: skip

    def starts(self, tree: Tree) -> None:
        """A pod whose containers are being made."""
        tree["status"]["initContainerStatuses"] = [
            {"name": it["name"], "ready": False, "state": {"waiting": {"reason": "PodInitializing"}}}
            for it in tree["spec"]["initContainers"]
        ]  # fmt: skip
        reason = "PodInitializing" if tree["spec"]["initContainers"] else "ContainerCreating"
        self._statuses(tree, {"waiting": {"reason": reason}}, ready=False)
        self._ready(tree, False, self.stamp())

    def runs(self, tree: Tree, since: str = "") -> None:
        """A pod that serves."""
        since = since or self.stamp()
        tree["status"]["phase"] = "Running"
        tree["status"]["initContainerStatuses"] = [
            {"name": it["name"], "ready": True, "started": True, "state": {"running": {"startedAt": since}}}
            if it.get("restartPolicy") == "Always"
            else {"name": it["name"], "ready": True, "state": {"terminated": {"exitCode": 0, "reason": "Completed", "finishedAt": since}}}
            for it in tree["spec"]["initContainers"]
        ]  # fmt: skip
        self._statuses(tree, {"running": {"startedAt": since}}, ready=True)
        self._ready(tree, True, since)

    def ends(self, tree: Tree, reason: str, code: int) -> None:
        """A pod whose container has ended."""
        self._statuses(tree, {"terminated": {"exitCode": code, "reason": reason, "finishedAt": self.stamp()}}, ready=False)  # fmt: skip
        self._ready(tree, False, self.stamp())

    def waits(self, tree: Tree, reason: str, message: str) -> None:
        """A pod whose container waits to be started again."""
        for it in tree["status"]["containerStatuses"]:
            if "terminated" in it["state"]:
                it["lastState"] = it["state"]
                it["restartCount"] += 1
        self._statuses(tree, {"waiting": {"reason": reason, "message": message}}, ready=False)

    # Counts that controllers would keep

    def pods_of(self, it: Kept) -> list[Tree]:
        """The pods of a workload."""
        return [
            tree for (namespace, _), tree in self.objects.get(PODS.kind, {}).items()
            if namespace == it.namespace and tree["metadata"]["labels"]["app"] == it.name
        ]  # fmt: skip

    def count(self, it: Kept, *, updated: int | None = None, reason: str = "NewReplicaSetAvailable", message: str = "") -> None:  # fmt: skip
        """Count the pods of a workload, as its controller would."""
        pods = self.pods_of(it)
        ready = sum(_is_ready(tree) for tree in pods)
        kind = {"Deployment": DEPLOYMENTS, "StatefulSet": STATEFUL_SETS, "DaemonSet": DAEMON_SETS}.get(it.kind)  # fmt: skip
        if kind is not None:
            tree = self.objects[kind.kind][it.namespace, it.name]
            fresh = len(pods) if updated is None else updated
            tree["status"] = {
                "observedGeneration": tree["metadata"]["generation"], "replicas": len(pods), "updatedReplicas": fresh,
                "readyReplicas": ready, "availableReplicas": ready, "currentRevision": f"{it.name}-1", "updateRevision": f"{it.name}-1",
                "desiredNumberScheduled": len(pods), "updatedNumberScheduled": fresh, "numberReady": ready, "numberAvailable": ready,
                "conditions": [
                    {"type": "Available", "status": "True" if ready >= it.replicas else "False"},
                    {"type": "Progressing", "status": "True", "reason": reason, "message": message},
                ] if it.kind == "Deployment" else [],
            }  # fmt: skip
            self.put(kind, tree)
        if it.port:
            self._slice(it, pods)

    def _service(self, it: Kept) -> None:
        self.put(SERVICES, {
            "metadata": self.metadata(it.namespace, it.name, 30 * DAY, labels=self._labels(it)),
            "spec": {"type": "ClusterIP", "clusterIP": f"10.96.{self.random.randint(0, 255)}.{self.random.randint(1, 254)}",
                     "selector": {"app": it.name}, "ports": [{"port": it.port}]},
            "status": {},
        })  # fmt: skip

    def _slice(self, it: Kept, pods: Sequence[Tree]) -> None:
        self.put(ENDPOINT_SLICES, {
            "metadata": {"namespace": it.namespace, "name": f"{it.name}-slice", "uid": f"{it.namespace}/{it.name}/slice",
                         "labels": {"kubernetes.io/service-name": it.name}},
            "endpoints": [
                {"addresses": [tree["status"]["podIP"]], "conditions": {"ready": _is_ready(tree)},
                 "targetRef": {"kind": "Pod", "name": tree["metadata"]["name"]}}
                for tree in pods
            ],
        })  # fmt: skip

    def _rest(self) -> None:
        """Ingresses, certificates, claims, autoscalers and a nightly job."""
        for number, (namespace, name, host, days) in enumerate((
            ("planning", "story-board", "stories.example.org", 61), ("planning", "planning-api", "api.example.org", 9),
            ("inference", "model-gateway", "models.example.org", 44), ("monitoring", "prometheus", "metrics.example.org", -1),
        )):  # fmt: skip
            tls = [{"hosts": [host], "secretName": f"{name}-tls"}] if number != 2 else []
            self.put(INGRESSES, {
                "metadata": self.metadata(namespace, name, 60 * DAY),
                "spec": {"ingressClassName": "nginx", "tls": tls, "rules": [
                    {"host": host, "http": {"paths": [{"path": "/", "backend": {"service": {"name": name, "port": {"number": 80}}}}]}}]},
                "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.10"}]}},
            })  # fmt: skip
            if tls:
                self.put(CERTIFICATES, {
                    "metadata": self.metadata(namespace, name, 60 * DAY),
                    "spec": {"dnsNames": [host], "secretName": f"{name}-tls", "issuerRef": {"kind": "ClusterIssuer", "name": "letsencrypt"}},
                    "status": {"notAfter": format_time(self.born + days * DAY), "conditions": [
                        {"type": "Ready", "status": "True" if days > 0 else "False", "reason": "Ready" if days > 0 else "Failed",
                         "message": "" if days > 0 else "The certificate request has failed: the challenge did not answer"}]},
                })  # fmt: skip
        for namespace, name, size, bound in (
            ("context", "data-neo4j-0", 200, True), ("context", "data-neo4j-1", 200, True), ("context", "data-neo4j-2", 200, True),
            ("messaging", "js-nats-0", 50, True), ("messaging", "js-nats-1", 50, True), ("messaging", "js-nats-2", 50, True),
            ("monitoring", "data-prometheus-0", 500, True), ("inference", "weights-cache", 1000, False),
        ):  # fmt: skip
            self.put(CLAIMS, {
                "metadata": self.metadata(namespace, name, 40 * DAY),
                "spec": {"storageClassName": "fast-ssd", "volumeName": f"pv-{name}" if bound else "", "accessModes": ["ReadWriteOnce"],
                         "resources": {"requests": {"storage": f"{size}Gi"}}},
                "status": {"phase": "Bound" if bound else "Pending", "capacity": {"storage": f"{size}Gi"} if bound else {}},
            })  # fmt: skip
        for namespace, name, low, high, now_, use in (
            ("council", "council-dev", 3, 12, 6, 71), ("inference", "model-gateway", 2, 3, 3, 93), ("planning", "planning-worker", 2, 8, 4, 48),
        ):  # fmt: skip
            self.put(AUTOSCALERS, {
                "metadata": self.metadata(namespace, name, 40 * DAY),
                "spec": {"scaleTargetRef": {"kind": "Deployment", "name": name}, "minReplicas": low, "maxReplicas": high,
                         "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 75}}}]},
                "status": {"currentReplicas": now_, "desiredReplicas": now_, "currentMetrics": [
                    {"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": use}}}]},
            })  # fmt: skip
        self.put(CRON_JOBS, {
            "metadata": self.metadata("context", "graph-backup", 60 * DAY),
            "spec": {"schedule": "*/5 * * * *", "jobTemplate": {"spec": {"template": {"spec": {"containers": [{"name": "backup", "image": "example/graph-backup:1.3"}]}}}}},
            "status": {},
        })  # fmt: skip

    # What happens

    def happens(self, kind: str, about: Tree, reason: str, note: str, *, bad: bool, count: int = 1, name: str = "") -> None:  # fmt: skip
        """An event of Kubernetes about an object, or the next of a series named `name`."""
        metadata = about["metadata"]
        namespace = metadata.get("namespace", "")
        called = name or f"{metadata['name']}.{next(self._numbers):x}"
        old = self.objects.get(EVENTS.kind, {}).get((namespace or "default", called))
        first = old["eventTime"] if old is not None else self.stamp()
        self.put(EVENTS, {
            "metadata": {"namespace": namespace or "default", "name": called, "uid": f"{self.born}/{namespace}/{called}"},
            "eventTime": first, "reason": reason, "note": note, "type": "Warning" if bad else "Normal",
            "series": {"count": count, "lastObservedTime": self.stamp()} if count > 1 else None,
            "reportingController": "kubelet", "regarding": {"kind": kind, "namespace": namespace, "name": metadata["name"], "uid": metadata["uid"]},
        })  # fmt: skip

    def step(self) -> list[Change]:
        """What has changed since the last step; what goes on goes on, and new things begin."""
        now = self.clock() / SECOND
        due = [it for it in self._running if it[0] <= now]
        self._running = [it for it in self._running if it[0] > now]
        for _, steps in due:
            self._advance(steps)
        changes, self.changes = self.changes, []
        return changes

    def _advance(self, steps: Steps) -> None:
        wait = next(steps, None)
        if wait is not None:
            self._running.append((self.clock() / SECOND + wait, steps))

    def begin(self, steps: Steps) -> None:
        """Let something happen."""
        self._advance(steps)

    def incident(self) -> None:
        """Let something begin that happens in clusters."""
        choice = self.random.random()
        it = self._idle("Deployment")
        if it is None:
            return
        if choice < 0.3:
            self.begin(self.crash_loop(it))
        elif choice < 0.5:
            self.begin(self.out_of_memory(it))
        elif choice < 0.8:
            self.begin(self.rollout(it, fails=self.random.random() < 0.3))
        elif choice < 0.9:
            self.begin(self.job())
        else:
            self.begin(self.node_lost())

    def _idle(self, kind: str) -> Kept | None:
        free = [it for name, it in self.kept.items() if it.kind == kind and name not in self._busy and it.replicas > 1]  # fmt: skip
        return self.random.choice(free) if free else None

    def crash_loop(self, it: Kept) -> Steps:
        """A pod that ends again and again, and recovers after some minutes."""
        busy = f"{it.namespace}/{it.name}"
        self._busy.add(busy)
        tree = self.random.choice(self.pods_of(it))
        for turn in range(1, self.random.randint(4, 7)):
            self.ends(tree, "Error", 1)
            self.put(PODS, tree)
            self.count(it)
            yield 3
            self.waits(
                tree, "CrashLoopBackOff", f"back-off {10 * 2**turn}s restarting failed container"
            )
            self.put(PODS, tree)
            self.happens("Pod", tree, "BackOff", "Back-off restarting failed container", bad=True,
                         count=turn * 3, name=f"{tree['metadata']['name']}.backoff")  # fmt: skip
            yield 8 * turn
            if (it.namespace, tree["metadata"]["name"]) not in self.objects[PODS.kind]:
                break
        else:
            self.runs(tree)
            self.put(PODS, tree)
        self.count(it)
        self._busy.discard(busy)

    def out_of_memory(self, it: Kept) -> Steps:
        """A container that wants more memory than it may have."""
        tree = self.random.choice(self.pods_of(it))
        self.ends(tree, "OOMKilled", 137)
        self.put(PODS, tree)
        self.count(it)
        yield 2
        self.waits(tree, "CrashLoopBackOff", "back-off 10s restarting failed container")
        self.put(PODS, tree)
        yield 6
        if (it.namespace, tree["metadata"]["name"]) in self.objects[PODS.kind]:
            self.runs(tree)
            self.put(PODS, tree)
            self.happens("Pod", tree, "Started", "Started container", bad=False)
            self.count(it)

    def rollout(self, it: Kept, *, fails: bool) -> Steps:
        """A new version, pod by pod; one that cannot be pulled stalls and is taken back."""
        busy = f"{it.namespace}/{it.name}"
        self._busy.add(busy)
        above = self.objects[DEPLOYMENTS.kind][it.namespace, it.name]
        name, _, tag = it.image.rpartition(":")
        start, _, last = tag.rpartition(".")
        fresh = f"{name}:{start}.{int(last) + 1}" if last.isdigit() else f"{it.image}-1"
        new = msgspec.structs.replace(it, image=fresh)
        annotations = above["metadata"]["annotations"]
        revision = int(annotations["deployment.kubernetes.io/revision"]) + 1
        above["metadata"]["generation"] += 1
        annotations["deployment.kubernetes.io/revision"] = str(revision)
        above["spec"]["template"]["spec"] = self._spec(new)
        owner = _reference("ReplicaSet", self._replica_set(new, above, None))
        self.count(it, updated=0, reason="ReplicaSetUpdated")
        self.happens("Deployment", above, "ScalingReplicaSet", f"Scaled up replica set {owner['name']} from 0 to 1", bad=False)  # fmt: skip
        old = self.pods_of(it)
        for done, gone in enumerate(old):
            tree = self.put(PODS, self._pod(new, f"{owner['name']}-{self._suffix()}", owner, self._node_for(new), None))  # fmt: skip
            self.count(it, updated=done + 1, reason="ReplicaSetUpdated")
            yield 3
            if fails:
                for turn in range(1, 6):
                    self.waits(tree, "ImagePullBackOff" if turn % 2 else "ErrImagePull", f'Back-off pulling image "{fresh}"')  # fmt: skip
                    self.put(PODS, tree)
                    self.happens("Pod", tree, "Failed", f'Failed to pull image "{fresh}": not found', bad=True,
                                 count=turn * 2, name=f"{tree['metadata']['name']}.pull")  # fmt: skip
                    yield 9
                self.count(it, updated=1, reason="ProgressDeadlineExceeded", message=f'ReplicaSet "{owner["name"]}" has timed out progressing.')  # fmt: skip
                yield 45
                self.remove(PODS, tree)
                annotations["deployment.kubernetes.io/revision"] = str(revision + 1)
                above["spec"]["template"]["spec"] = self._spec(it)
                above["metadata"]["generation"] += 1
                self.count(it)
                break
            self.runs(tree)
            self.put(PODS, tree)
            self.happens("Pod", tree, "Started", "Started container", bad=False)
            yield 2
            gone["metadata"]["deletionTimestamp"] = self.stamp()
            self.put(PODS, gone)
            yield 3
            self.remove(PODS, gone)
            self.count(it, updated=done + 1, reason="ReplicaSetUpdated")
        else:
            self.kept[busy] = new
            self.count(new)
        self._busy.discard(busy)

    def job(self) -> Steps:
        """A run of the nightly job, which sometimes fails."""
        cron = self.objects[CRON_JOBS.kind]["context", "graph-backup"]
        name = f"graph-backup-{self.clock() // (60 * SECOND)}"
        if ("context", name) in self.objects.get(JOBS.kind, {}):
            return
        it = Kept(
            "context", "graph-backup", "Job", 1, "example/graph-backup:1.3", 0.5, 0.5, 0, "context"
        )
        tree = self.put(JOBS, {
            "metadata": self.metadata("context", name, None, ownerReferences=[_reference("CronJob", cron)]),
            "spec": {"completions": 1, "template": {"spec": self._spec(it)}}, "status": {"active": 1, "startTime": self.stamp()},
        })  # fmt: skip
        cron["status"] = {"active": [{"name": name}], "lastScheduleTime": self.stamp()}
        self.put(CRON_JOBS, cron)
        pod = self.put(PODS, self._pod(it, f"{name}-{self._suffix()}", _reference("Job", tree), self._node_for(it), None))  # fmt: skip
        yield 4
        self.runs(pod)
        self.put(PODS, pod)
        yield 20
        good = self.random.random() < 0.8
        self.ends(pod, "Completed" if good else "Error", 0 if good else 3)
        pod["status"]["phase"] = "Succeeded" if good else "Failed"
        self.put(PODS, pod)
        tree["status"] = {
            "succeeded": int(good), "failed": int(not good), "completionTime": self.stamp() if good else "",
            "conditions": [{"type": "Complete" if good else "Failed", "status": "True",
                            "message": "" if good else "Job has reached the specified backoff limit", "lastTransitionTime": self.stamp()}],
        }  # fmt: skip
        self.put(JOBS, tree)
        cron["status"]["active"] = []
        self.put(CRON_JOBS, cron)
        yield 240
        self.remove(PODS, pod)
        self.remove(JOBS, tree)

    def node_lost(self) -> Steps:
        """A node that is not heard of for a while, and its pods with it."""
        name = self.random.choice([it for it in self.nodes if it.startswith("worker")])
        tree = self.objects[NODES.kind]["", name]
        if f"node/{name}" in self._busy:
            return
        self._busy.add(f"node/{name}")
        on_it = [it for it in self.objects[PODS.kind].values() if it["spec"]["nodeName"] == name and it["status"]["phase"] == "Running"]  # fmt: skip
        ready = next(it for it in tree["status"]["conditions"] if it["type"] == "Ready")
        ready |= {"status": "Unknown", "reason": "NodeStatusUnknown", "message": "Kubelet stopped posting node status.", "lastTransitionTime": self.stamp()}  # fmt: skip
        tree["spec"]["taints"] = [{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]
        self.put(NODES, tree)
        self.happens("Node", tree, "NodeNotReady", f"Node {name} status is now: NodeNotReady", bad=True)  # fmt: skip
        was_ready = [it for it in on_it if _is_ready(it)]
        for it in was_ready:
            self._ready(it, False, self.stamp(), "NodeNotReady")
            self.put(PODS, it)
        yield 70
        ready |= {"status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status", "lastTransitionTime": self.stamp()}  # fmt: skip
        tree["spec"]["taints"] = []
        self.put(NODES, tree)
        for it in was_ready:
            if self.objects[PODS.kind].get((it["metadata"]["namespace"], it["metadata"]["name"])) is it and it["status"]["containerStatuses"][0]["ready"]:  # fmt: skip
                self._ready(it, True, self.stamp())
                self.put(PODS, it)
        self._busy.discard(f"node/{name}")


def _reference(kind: str, tree: Tree) -> Tree:
    return {"kind": kind, "name": tree["metadata"]["name"], "uid": tree["metadata"]["uid"], "controller": True}  # fmt: skip


def _is_ready(tree: Tree) -> bool:
    return any(it["type"] == "Ready" and it["status"] == "True" for it in tree["status"].get("conditions", ()))  # fmt: skip
