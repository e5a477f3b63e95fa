"""The mapping of nodes, services, autoscalers and custom resources."""

from typing import Any

import msgspec
import pytest

from almenara.signals import Severity
from almenara_kube.kinds import WatchedKind
from almenara_kubernetes.kinds import AUTOSCALERS, DAEMON_SETS, NODES, SERVICES, custom_kind
from almenara_kubernetes.mapping.autoscalers import map_autoscaler
from almenara_kubernetes.mapping.custom import map_custom
from almenara_kubernetes.mapping.network import map_service
from almenara_kubernetes.mapping.nodes import map_node
from almenara_kubernetes.mapping.workloads import map_daemon_set


def decode(kind: WatchedKind, **parts: Any) -> Any:
    metadata = {"name": "one", "namespace": "shop", "generation": 2, **parts.pop("metadata", {})}
    return kind.decode(msgspec.json.encode({"metadata": metadata, **parts}))


def metrics(*pairs: tuple[dict[str, Any], dict[str, Any]]) -> list[dict[str, Any]]:
    spec, current = [first for first, _ in pairs], [second for _, second in pairs if second]
    autoscaler = decode(AUTOSCALERS, spec={"metrics": spec}, status={"currentMetrics": current})
    rows: list[dict[str, Any]] = map_autoscaler(autoscaler)[2]["metrics"]
    return rows


def source(kind: str, field: str, **parts: Any) -> dict[str, Any]:
    return {"type": kind, field: parts}


def test_autoscaler_has_metrics_of_every_type() -> None:
    queue, requests = {"name": "queue_length"}, {"name": "requests"}
    ingress = {"kind": "Ingress", "name": "main"}
    rows = metrics(
        (source("Resource", "resource", name="cpu", target={"averageUtilization": 75}),
         source("Resource", "resource", name="cpu", current={"averageUtilization": 93})),
        (source("Resource", "resource", name="memory", target={"averageValue": "1Gi"}),
         source("Resource", "resource", name="memory", current={"averageValue": "512Mi"})),
        (source("ContainerResource", "containerResource", name="cpu", container="app",
                target={"averageUtilization": 60}),
         source("ContainerResource", "containerResource", name="cpu", container="app",
                current={"averageUtilization": 30})),
        (source("Pods", "pods", metric=requests, target={"averageValue": "100"}),
         source("Pods", "pods", metric=requests, current={"averageValue": "250m"})),
        (source("Object", "object", metric=requests, describedObject=ingress,
                target={"value": "2k"}),
         source("Object", "object", metric=requests, describedObject=ingress,
                current={"value": "500"})),
        (source("External", "external", metric=queue, target={"averageValue": "30"}), {}),
    )  # fmt: skip

    assert [(row["name"], row["current"], row["target"], row.get("unit")) for row in rows] == [
        ("cpu", 93, 75, "%"),
        ("memory", 512 * 2**20, 2**30, None),
        ("app: cpu", 30, 60, "%"),
        ("requests", 0.25, 100.0, None),
        ("main: requests", 500.0, 2000.0, None),
        ("queue_length", None, 30.0, None),
    ]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({"health": {"status": "Degraded", "message": "no pods"}, "sync": {"status": "Synced"}},
         ("Degraded", Severity.ERROR)),
        ({"health": {"status": "Healthy"}}, ("Healthy", Severity.INFO)),
        ({"health": {"status": "Progressing"}}, ("Progressing", Severity.WARN)),
        ({"phase": "Failed", "reason": "BadImage"}, ("Failed", Severity.ERROR)),
        ({"phase": "Running"}, ("Running", Severity.INFO)),
        ({"phase": "Pending"}, ("Pending", Severity.WARN)),
        ({"state": "FAILED"}, ("FAILED", Severity.ERROR)),
        ({"phase": "Running", "conditions": [{"type": "Degraded", "status": "True"}]},
         ("Degraded", Severity.ERROR)),
        ({"conditions": [{"type": "Ready", "status": "True"}]}, ("Ready", Severity.INFO)),
        ({"conditions": [{"type": "Ready", "status": "False", "reason": "Creating"}]},
         ("Creating", Severity.WARN)),
        ({"conditions": [{"type": "Ready", "status": "False", "reason": "InstallFailed"}]},
         ("InstallFailed", Severity.WARN)),
        ({"conditions": [{"type": "Ready", "status": "Unknown"}]},
         ("Ready unknown", Severity.WARN)),
        ({"conditions": [{"type": "Ready", "status": "True"},
                         {"type": "Stalled", "status": "True", "reason": "BadSpec"}]},
         ("BadSpec", Severity.ERROR)),
        ({"conditions": [{"type": "Available", "status": "True"},
                         {"type": "Progressing", "status": "True",
                          "reason": "NewReplicaSetAvailable"}]},
         ("Available", Severity.INFO)),
        ({"conditions": [{"type": "Ready", "status": "True"},
                         {"type": "Reconciling", "status": "True"}]},
         ("Reconciling", Severity.WARN)),
        ({"observedGeneration": 1, "phase": "Running"}, ("Progressing", Severity.WARN)),
        ({"observedGeneration": 2, "phase": "Running"}, ("Running", Severity.INFO)),
        ({}, ("", Severity.INFO)),
        ("nonsense", ("", Severity.INFO)),
        ({"conditions": "nonsense", "health": [], "phase": 3}, ("", Severity.INFO)),
    ],
)  # fmt: skip
def test_custom_resource_has_the_worst_of_health_phase_and_conditions(
    status: Any, expected: tuple[str, Severity]
) -> None:
    kind = custom_kind(group="example.org", version="v1", plural="lamps", kind="Lamp")

    assert map_custom(decode(kind, status=status), kind)[:2] == expected


def test_custom_resource_has_the_reason_of_its_status() -> None:
    kind = custom_kind(group="example.org", version="v1", plural="lamps", kind="Lamp")
    ready = {"type": "Ready", "status": "False", "reason": "NoOil", "message": "refill it"}

    _, _, state = map_custom(decode(kind, status={"conditions": [ready]}), kind)

    assert (state["reason"], state["message"]) == ("NoOil", "refill it")


def test_custom_resource_with_a_configured_status_is_as_serious_as_its_word() -> None:
    kind = custom_kind(
        group="example.org", version="v1", plural="lamps", kind="Lamp", status="status.mode"
    )

    assert map_custom(decode(kind, status={"mode": "Failed"}), kind)[:2] == (
        "Failed", Severity.ERROR,
    )  # fmt: skip
    deleted = decode(kind, metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"}, status={})
    assert map_custom(deleted, kind)[0] == ""


def test_node_has_the_role_of_either_label() -> None:
    labels = {"node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "edge"}

    assert map_node(decode(NODES, metadata={"labels": labels}))[2]["roles"] == [
        "control-plane", "edge",
    ]  # fmt: skip


def test_daemon_set_reports_the_pods_there_are_beside_the_desired_ones() -> None:
    status = {"currentNumberScheduled": 3, "desiredNumberScheduled": 5}

    state = map_daemon_set(decode(DAEMON_SETS, status=status))[2]

    assert (state["current"], state["desired"]) == (3, 5)


@pytest.mark.parametrize(
    ("spec", "addresses", "expected"),
    [
        ({"type": "LoadBalancer"}, [], "<pending>"),
        ({"type": "LoadBalancer"}, [{"ip": "192.0.2.1"}], "192.0.2.1"),
        ({"type": "LoadBalancer", "externalIPs": ["192.0.2.9"]}, [{"ip": "192.0.2.1"}],
         "192.0.2.1, 192.0.2.9"),
        ({"type": "ClusterIP", "externalIPs": ["192.0.2.9"]}, [], "192.0.2.9"),
        ({"type": "ClusterIP"}, [], ""),
        ({"type": "ExternalName", "externalName": "db.example.org"}, [], "db.example.org"),
    ],
)  # fmt: skip
def test_service_has_the_external_ip_that_kubectl_prints(
    spec: dict[str, Any], addresses: list[dict[str, str]], expected: str
) -> None:
    service = decode(SERVICES, spec=spec, status={"loadBalancer": {"ingress": addresses}})

    assert map_service(service, {})[2]["external"] == expected
