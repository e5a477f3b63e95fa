"""Makes the objects of the simulated Kubernetes cluster, as its controllers would."""

import uuid
from collections.abc import Callable, Sequence
from typing import Final

from almenara.signals import format_time
from almenara.units import DAY, HOUR, SECOND
from almenara_demo.kubernetes_fleet import FLEET, TEAM, Workload, make_team
from almenara_demo.kubernetes_kinds import (
    AUTOSCALERS,
    CERTIFICATES,
    CLAIMS,
    CRON_JOBS,
    DAEMON_SETS,
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    INGRESSES,
    NODES,
    PODS,
    REPLICA_SETS,
    SERVICES,
    STATEFUL_SETS,
    Tree,
)
from almenara_demo.kubernetes_objects import PodLifecycle, is_ready, owner_reference

PODS_OF_A_NODE: Final = 18
CONSIDERED: Final = 24
"""Nodes that a pod may be placed on, as a scheduler looks at some of many."""


class ClusterBuilder(PodLifecycle):
    """Makes nodes, workloads with their pods and services, and the rest of a cluster."""

    def __init__(self, pods: int, clock: Callable[[], int], seed: int = 0) -> None:
        super().__init__(clock, seed)
        self._placed: dict[str, int] = {}
        workloads = list(FLEET)
        base = sum(workload.replicas for workload in workloads)
        for number in range(1, max(0, pods - base) // TEAM + 1):
            workloads += make_team(number)
        self.nodes = self._nodes(
            sum(workload.replicas for workload in workloads),
            sum(workload.gpus * workload.replicas for workload in workloads),
        )
        self.workloads = {
            f"{workload.namespace}/{workload.name}": workload for workload in workloads
        }
        for workload in workloads:
            self._workload(workload)
        self._rest()
        self.changes.clear()

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

    def _node_for(self, workload: Workload) -> str:
        suitable = [name for name in self.nodes if name.startswith("gpu") == bool(workload.gpus)]
        name = min(
            self.random.sample(suitable, min(len(suitable), CONSIDERED)),
            key=lambda node: (
                self._placed.get(node, 0) + self.random.random() * (0.5 if workload.gpus else 3)
            ),
        )
        self._placed[name] = self._placed.get(name, 0) + 1
        return name

    def _workload(self, workload: Workload) -> None:
        age = self.age()
        kind = {"Deployment": DEPLOYMENTS, "StatefulSet": STATEFUL_SETS, "DaemonSet": DAEMON_SETS}.get(workload.kind)  # fmt: skip
        labels = self._labels(workload)
        owner: Tree
        if kind is None:
            # A custom resource that owns its pods: its operator is not simulated, only its pods.
            owner = {"kind": workload.kind, "name": "fleet", "uid": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{self.born}/fleet")), "controller": True}  # fmt: skip
            names = [f"{workload.name}-{self._suffix()}" for _ in range(workload.replicas)]
        else:
            tree = self.put(kind, {
                "metadata": self.metadata(workload.namespace, workload.name, age, labels=labels, annotations={
                    "deployment.kubernetes.io/revision": str(self.random.randint(2, 40)),
                    "deprecated.daemonset.template.generation": "3",
                }),
                "spec": {"replicas": workload.replicas, "template": {"spec": self._spec(workload)},
                         "selector": {"matchLabels": {"app": workload.name}},
                         "strategy": {"type": "RollingUpdate"}},
                "status": {},
            })  # fmt: skip
            owner = owner_reference(workload.kind, tree)
            if workload.kind == "Deployment":
                owner = owner_reference("ReplicaSet", self._replica_set(workload, tree, age))
                names = [f"{owner['name']}-{self._suffix()}" for _ in range(workload.replicas)]
            elif workload.kind == "DaemonSet":
                names = [f"{workload.name}-{self._suffix()}" for _ in self.nodes]
            else:
                names = [f"{workload.name}-{number}" for number in range(workload.replicas)]
        for place, name in enumerate(names):
            node = self.nodes[place] if workload.kind == "DaemonSet" else self._node_for(workload)
            self.put(
                PODS, self._pod(workload, name, owner, node, int(age * self.random.uniform(0.2, 1)))
            )
        self.count(workload)
        if workload.port:
            self._service(workload)

    def _labels(self, workload: Workload) -> Tree:
        return {"app": workload.name, "app.kubernetes.io/name": workload.name, "app.kubernetes.io/part-of": workload.part_of}  # fmt: skip

    def _suffix(self) -> str:
        return "".join(self.random.choices("bcdfghjklmnpqrstvwxz2456789", k=5))

    def _replica_set(self, workload: Workload, above: Tree, age: int | None) -> Tree:
        return self.put(REPLICA_SETS, {
            "metadata": self.metadata(workload.namespace, f"{workload.name}-{self._suffix()}{self._suffix()[:4]}", age,
                                      ownerReferences=[owner_reference("Deployment", above)]),
            "spec": {"replicas": workload.replicas}, "status": {},
        })  # fmt: skip

    def _spec(self, workload: Workload) -> Tree:
        devices = {"nvidia.com/gpu": str(workload.gpus)} if workload.gpus else {}
        main = {
            "name": workload.name.split("-")[0] if workload.kind != "RayCluster" else "ray", "image": workload.image,
            "resources": {
                "requests": {"cpu": f"{workload.cpu * 1000:.0f}m", "memory": f"{workload.memory * 1024:.0f}Mi", **devices},
                "limits": {"cpu": f"{workload.cpu * 2000:.0f}m", "memory": f"{workload.memory * 1536:.0f}Mi", **devices},
            },
            "ports": [{"containerPort": workload.port}] if workload.port else [],
            "env": [{"name": "ROLE", "value": workload.name},
                    {"name": "NATS_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "nats", "key": "password"}}}],
        }  # fmt: skip
        inits = [{"name": "proxy", "image": "example/proxy:1.9", "restartPolicy": "Always",
                  "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}}}] if workload.sidecar else []  # fmt: skip
        if workload.gpus:
            inits.append({"name": "fetch-weights", "image": "example/fetch:1.2", "resources": {}})
        return {"containers": [main], "initContainers": inits, "serviceAccountName": workload.name}

    def _pod(self, workload: Workload, name: str, owner: Tree, node: str, age: int | None) -> Tree:
        spec = self._spec(workload) | {"nodeName": node}
        tree: Tree = {
            "metadata": self.metadata(workload.namespace, name, age, labels=self._labels(workload), ownerReferences=[owner]),
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

    def pods_of(self, workload: Workload) -> list[Tree]:
        """The pods of a workload."""
        return [
            tree for (namespace, _), tree in self.objects.get(PODS.kind, {}).items()
            if namespace == workload.namespace and tree["metadata"]["labels"]["app"] == workload.name
        ]  # fmt: skip

    def count(self, workload: Workload, *, updated: int | None = None, reason: str = "NewReplicaSetAvailable", message: str = "") -> None:  # fmt: skip
        """Count the pods of a workload, as its controller would."""
        pods = self.pods_of(workload)
        ready = sum(is_ready(tree) for tree in pods)
        kind = {"Deployment": DEPLOYMENTS, "StatefulSet": STATEFUL_SETS, "DaemonSet": DAEMON_SETS}.get(workload.kind)  # fmt: skip
        if kind is not None:
            tree = self.objects[kind.kind][workload.namespace, workload.name]
            fresh = len(pods) if updated is None else updated
            tree["status"] = {
                "observedGeneration": tree["metadata"]["generation"], "replicas": len(pods), "updatedReplicas": fresh,
                "readyReplicas": ready, "availableReplicas": ready, "currentRevision": f"{workload.name}-1", "updateRevision": f"{workload.name}-1",
                "desiredNumberScheduled": len(pods), "updatedNumberScheduled": fresh, "numberReady": ready, "numberAvailable": ready,
                "conditions": [
                    {"type": "Available", "status": "True" if ready >= workload.replicas else "False"},
                    {"type": "Progressing", "status": "True", "reason": reason, "message": message},
                ] if workload.kind == "Deployment" else [],
            }  # fmt: skip
            self.put(kind, tree)
        if workload.port:
            self._slice(workload, pods)

    def _service(self, workload: Workload) -> None:
        self.put(SERVICES, {
            "metadata": self.metadata(workload.namespace, workload.name, 30 * DAY, labels=self._labels(workload)),
            "spec": {"type": "ClusterIP", "clusterIP": f"10.96.{self.random.randint(0, 255)}.{self.random.randint(1, 254)}",
                     "selector": {"app": workload.name}, "ports": [{"port": workload.port}]},
            "status": {},
        })  # fmt: skip

    def _slice(self, workload: Workload, pods: Sequence[Tree]) -> None:
        self.put(ENDPOINT_SLICES, {
            "metadata": {"namespace": workload.namespace, "name": f"{workload.name}-slice", "uid": f"{workload.namespace}/{workload.name}/slice",
                         "labels": {"kubernetes.io/service-name": workload.name}},
            "endpoints": [
                {"addresses": [tree["status"]["podIP"]], "conditions": {"ready": is_ready(tree)},
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
