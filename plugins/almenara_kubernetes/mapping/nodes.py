"""Nodes as resources: status, pressures, capacity, taints."""

import re
from typing import Final

from almenara.signals import Severity
from almenara_kubernetes.mapping import Mapped
from almenara_kubernetes.mapping.conditions import find_condition, map_conditions
from almenara_kubernetes.models import Node
from almenara_kubernetes.quantities import parse_quantity

POSITIVE: Final = re.compile(r"Ready$|^EtcdIsVoter$")
"""Conditions of a node that are good when they hold; all others are bad then."""
ROLE_PREFIX: Final = "node-role.kubernetes.io/"
ROLE_LABEL: Final = "kubernetes.io/role"


def map_node(node: Node) -> Mapped:
    """A node, with the status that `kubectl get nodes` prints."""
    conditions = node.status.conditions
    ready = find_condition(conditions, "Ready")
    text, severity = "Unknown", Severity.ERROR
    if ready is not None:
        is_ready = ready.status == "True"
        text = "Ready" if is_ready else "NotReady"
        severity = Severity.INFO if is_ready else Severity.ERROR
    pressures = [
        condition.type
        for condition in conditions
        if condition.type != "Ready" and is_pressure(condition.type, condition.status)
    ]
    if pressures and severity == Severity.INFO:
        severity = Severity.WARN
    if node.spec.unschedulable:
        text += ",SchedulingDisabled"
        severity = max(severity, Severity.WARN)
    allocatable = node.status.allocatable
    labels = node.metadata.labels
    roles = {name.removeprefix(ROLE_PREFIX) for name in labels if name.startswith(ROLE_PREFIX)} | {
        labels.get(ROLE_LABEL, "")
    }
    return text, severity, {
        "pressures": pressures,
        "conditions": map_conditions(conditions),
        "cpu": parse_quantity(allocatable.get("cpu")),
        "memory": parse_quantity(allocatable.get("memory")),
        "pods": parse_quantity(allocatable.get("pods")),
        "devices": {
            name: amount
            for name, quantity in allocatable.items()
            if "/" in name and (amount := parse_quantity(quantity))
        },
        "taints": [
            f"{taint.key}{'=' if taint.value else ''}{taint.value}:{taint.effect}"
            for taint in node.spec.taints
        ],
        "roles": sorted(filter(None, roles)),
        "zone": labels.get("topology.kubernetes.io/zone", ""),
        "instance": labels.get("node.kubernetes.io/instance-type", ""),
        "version": node.status.node_info.kubelet_version,
        "os": node.status.node_info.os_image,
        "architecture": node.status.node_info.architecture,
        "runtime": node.status.node_info.container_runtime_version,
    }  # fmt: skip


def is_pressure(condition: str, status: str) -> bool:
    """Whether a condition of a node is a problem: most are when they hold, and those that mean
    readiness, as agents of clouds add them, when they do not."""
    return status == ("False" if POSITIVE.search(condition) else "True")
