"""The workloads of the simulated Kubernetes cluster, which runs an AI fleet."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

GIB: Final = 2**30
TEAM: Final = 25
"""Pods of a team."""


class Workload(msgspec.Struct, frozen=True):
    """A workload of the fleet: its replicas, and the requests of each."""

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


def make_workloads(*rows: tuple[Any, ...]) -> Sequence[Workload]:
    """Workloads by the values of their fields."""
    return [Workload(*row) for row in rows]


FLEET: Final = make_workloads(
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
"""The workloads of the fleet; a DaemonSet has a pod on every node."""

LINES: Final = (
    "accepted task {task} for role DEV", "deliberation {task}: 3 agents, round 2 of 3",
    "tokens out 1,482 in 3.4 s (436/s)", "context cache hit for story {task}",
    "heartbeat ok", "acknowledged orchestration.task.dispatched {task}",
    "WARN retrying call to the model gateway in 2 s", "proposal of agent-dev-002 chosen, 0.81",
    "ERROR the model did not answer within 30 s: {task}", "GET /healthz 200 1 ms",
)  # fmt: skip
"""Lines that programs log."""


def make_team(number: int) -> Sequence[Workload]:
    """The workloads of the n-th team: 25 pods."""
    namespace = f"team-{number:03d}"
    return make_workloads(
        (namespace, "api", "Deployment", 6, f"example/api:{1 + number % 4}.{number % 9}.0", 0.25, 0.5, 0, namespace, 8080),
        (namespace, "worker", "Deployment", 12, f"example/worker:{1 + number % 3}.2.{number % 7}", 0.5, 1, 0, namespace),
        (namespace, "web", "Deployment", 4, "example/web:7.1.0", 0.1, 0.25, 0, namespace, 3000),
        (namespace, "postgres", "StatefulSet", 3, "postgres:18.0", 1, 4, 0, namespace, 5432),
    )  # fmt: skip
