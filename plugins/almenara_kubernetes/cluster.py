"""Nodes, traffic, storage, certificates and scaling as resources."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from almenara.sdk import now
from almenara.signals import Severity
from almenara_kubernetes.objects import (
    Autoscaler,
    Certificate,
    CustomObject,
    Ingress,
    Node,
    PersistentVolumeClaim,
    Service,
)
from almenara_kubernetes.pods import conditions
from almenara_kubernetes.quantities import moment, quantity
from almenara_kubernetes.watched import CustomKind
from almenara_kubernetes.workloads import Read

DAY: Final = 86_400_000_000
EXPIRES_SOON: Final = 14 * DAY
LISTED: Final = 50
LARGEST: Final = 2**53
"""Whole numbers beyond this are not exact everywhere, and are kept as text."""
LONGEST_VALUE: Final = 300
GOOD: Final = re.compile(r"Ready$|^EtcdIsVoter$")
"""Conditions of a node that are as they should be where they hold."""
STEP: Final = re.compile(r"([^.\[\]]+)|\[(\d{1,6})\]")


def node(it: Node) -> Read:
    """A node, with the status that `kubectl get nodes` prints."""
    found = {one.type: one for one in it.status.conditions}
    ready = found.get("Ready")
    text, severity = "Unknown", Severity.ERROR
    if ready is not None:
        good = ready.status == "True"
        text = "Ready" if good else "NotReady"
        severity = Severity.INFO if good else Severity.ERROR
    pressures = [
        name for name, one in found.items() if name != "Ready" and is_pressure(name, one.status)
    ]
    if pressures and severity == Severity.INFO:
        severity = Severity.WARN
    if it.spec.unschedulable:
        text += ",SchedulingDisabled"
        severity = max(severity, Severity.WARN)
    allocatable = it.status.allocatable
    labels = it.metadata.labels
    return text, severity, {
        "pressures": pressures,
        "conditions": conditions(it.status.conditions),
        "cpu": quantity(allocatable.get("cpu")),
        "memory": quantity(allocatable.get("memory")),
        "pods": quantity(allocatable.get("pods")),
        "devices": {
            name: amount
            for name, written in allocatable.items()
            if "/" in name and (amount := quantity(written))
        },
        "taints": [
            f"{one.key}{'=' if one.value else ''}{one.value}:{one.effect}"
            for one in it.spec.taints
        ],
        "roles": sorted(
            name.rpartition("/")[2]
            for name in labels
            if name.startswith("node-role.kubernetes.io/")
        ),
        "zone": labels.get("topology.kubernetes.io/zone", ""),
        "instance": labels.get("node.kubernetes.io/instance-type", ""),
        "version": it.status.node_info.kubelet_version,
        "os": it.status.node_info.os_image,
        "architecture": it.status.node_info.architecture,
        "runtime": it.status.node_info.container_runtime_version,
    }  # fmt: skip


def is_pressure(condition: str, status: str) -> bool:
    """Whether a condition of a node tells of trouble: most do where they hold, and those that say
    that something is ready, as the agents of clouds add them, where they do not."""
    return status == ("False" if GOOD.search(condition) else "True")


def service(it: Service, endpoints: Mapping[str, bool]) -> Read:
    """A service with its endpoints: whether each is ready, by the name of its pod or its address.

    One that selects pods and has none that is ready worries.
    """
    ready = sum(endpoints.values())
    text, severity = "Serving", Severity.INFO
    if it.spec.type == "ExternalName":
        text = "External"
    elif not ready:
        text, severity = "No endpoints", Severity.ERROR if it.spec.selector else Severity.DEBUG
    elif ready < len(endpoints):
        text, severity = "Degraded", Severity.WARN
    return text, severity, {
        "type": it.spec.type,
        "cluster_ip": it.spec.cluster_ip,
        "external": it.spec.external_name or _addresses(it.status.load_balancer.ingress),
        "ports": ", ".join(
            f"{one.port}{f':{one.node_port}' if one.node_port else ''}/{one.protocol}"
            for one in it.spec.ports
        ),
        "selector": dict(it.spec.selector),
        "ready": ready,
        "endpoints": len(endpoints),
        "pods": sorted(endpoints),
    }  # fmt: skip


def _addresses(found: Any) -> str:
    return ", ".join(one.hostname or one.ip for one in found)


def ingress(it: Ingress) -> Read:
    """An ingress: its hosts, whether each has TLS, and the services behind it."""
    secured = {host for one in it.spec.tls for host in one.hosts}
    anything = any(not one.hosts for one in it.spec.tls)
    rules = [
        {
            "host": rule.host or "*",
            "tls": anything or _covered(rule.host, secured),
            "path": path.path or "/",
            "service": path.backend.service.name,
            "port": str(path.backend.service.port.name or path.backend.service.port.number or ""),
        }
        for rule in it.spec.rules
        for path in rule.http.paths
    ]
    default = it.spec.default_backend.service
    if default.name:
        port = str(default.port.name or default.port.number or "")
        rules.append(
            {"host": "*", "tls": anything, "path": "/", "service": default.name, "port": port}
        )
    address = _addresses(it.status.load_balancer.ingress)
    secure = {bool(rule["tls"]) for rule in rules}
    text = {(): "No rules", (True,): "TLS", (False,): "Plain HTTP"}.get(
        tuple(secure), "Partly plain HTTP"
    )
    return (
        text,
        Severity.INFO if text == "TLS" else Severity.WARN,
        {
            "class": it.spec.ingress_class_name,
            "address": address,
            "hosts": ", ".join(sorted({str(rule["host"]) for rule in rules})),
            "secrets": ", ".join(one.secret_name for one in it.spec.tls if one.secret_name),
            "rules": ", ".join(map(_route, rules[:LISTED])),
        },
    )


def _route(rule: Mapping[str, Any]) -> str:
    port = f":{rule['port']}" if rule["port"] else ""
    host = "" if rule["host"] == "*" else rule["host"]
    plain = "" if rule["tls"] else " without TLS"
    return f"{host}{rule['path']} to {rule['service']}{port}{plain}"


def _covered(host: str, secured: set[str]) -> bool:
    return host in secured or f"*.{host.partition('.')[2]}" in secured


def claim(it: PersistentVolumeClaim) -> Read:
    """A claim of a persistent volume, with the status that kubectl prints."""
    text = "Terminating" if it.metadata.deletion_timestamp else it.status.phase or "Pending"
    severity = {
        "Bound": Severity.INFO, "Pending": Severity.WARN, "Terminating": Severity.DEBUG,
    }.get(text, Severity.ERROR)  # fmt: skip
    return text, severity, {
        "class": it.spec.storage_class_name,
        "volume": it.spec.volume_name,
        "requested": quantity(it.spec.resources.requests.get("storage")),
        "capacity": quantity(it.status.capacity.get("storage")),
        "modes": it.spec.access_modes,
        "conditions": conditions(it.status.conditions),
    }  # fmt: skip


def certificate(it: Certificate) -> Read:
    """A certificate of cert-manager, and when it expires."""
    ready = next((one for one in it.status.conditions if one.type == "Ready"), None)
    expires = moment(it.status.not_after)
    text, severity = "Ready", Severity.INFO
    if expires is not None and expires <= now():
        text, severity = "Expired", Severity.ERROR
    elif ready is None or ready.status != "True":
        text = (ready.reason if ready is not None else "") or "NotReady"
        severity = Severity.ERROR
    elif expires is not None and expires - now() <= EXPIRES_SOON:
        text, severity = "Expires soon", Severity.WARN
    return text, severity, {
        "expires": expires,
        "issued": moment(it.status.not_before),
        "renewal": moment(it.status.renewal_time),
        "names": ", ".join(it.spec.dns_names) or it.spec.common_name,
        "secret": it.spec.secret_name,
        "issuer": f"{it.spec.issuer_ref.kind or 'Issuer'}/{it.spec.issuer_ref.name}",
        "message": ready.message if ready is not None else "",
        "conditions": conditions(it.status.conditions),
    }  # fmt: skip


def autoscaler(it: Autoscaler) -> Read:
    """A HorizontalPodAutoscaler: what it steers, between which bounds, and by what."""
    found = {one.type: one for one in it.status.conditions}
    text, severity = "Steady", Severity.INFO
    now_, wanted = it.status.current_replicas, it.status.desired_replicas
    unable = next(
        (
            found[name]
            for name in ("AbleToScale", "ScalingActive")
            if name in found and found[name].status == "False"
        ),
        None,
    )
    if unable is not None:
        text, severity = unable.reason or "Unable", Severity.ERROR
        if unable.reason == "ScalingDisabled":
            severity = Severity.DEBUG
    elif wanted != now_:
        text = "Scaling up" if wanted > now_ else "Scaling down"
    elif it.spec.max_replicas and wanted >= it.spec.max_replicas > it.spec.min_replicas:
        text, severity = "At maximum", Severity.WARN
    current = {one.resource.name: one.resource.current for one in it.status.current_metrics}
    return text, severity, {
        "target": f"{it.spec.scale_target_ref.kind}/{it.spec.scale_target_ref.name}",
        "min": it.spec.min_replicas,
        "max": it.spec.max_replicas,
        "current": now_,
        "desired": wanted,
        "scaled": moment(it.status.last_scale_time),
        "metrics": [
            {
                "name": one.resource.name,
                "target": one.resource.target.average_utilization,
                "current": current[one.resource.name].average_utilization
                if one.resource.name in current
                else None,
            }
            for one in it.spec.metrics
            if one.type == "Resource"
        ],
        "message": unable.message if unable is not None else "",
        "conditions": conditions(it.status.conditions),
    }  # fmt: skip


def custom(it: CustomObject, watched: CustomKind) -> Read:
    """A custom resource: the values that the configuration points at.

    Without a path for its status, that is the condition `Ready`, or `Available`, or the phase.
    """
    text = _text(value_at(it.whole, watched.status)) if watched.status else ""
    severity = Severity.INFO
    if not watched.status:
        text, severity = _usual_status(value_at(it.whole, "status"))
    return text, severity, {
        column.title: value
        for column in watched.columns
        if (value := _short(value_at(it.whole, column.path))) is not None
    }  # fmt: skip


def _usual_status(status: Any) -> tuple[str, Severity]:
    if not isinstance(status, dict):
        return "", Severity.INFO
    found = status.get("conditions")
    for wanted in ("Ready", "Available", "Healthy"):
        for one in found if isinstance(found, list) else ():
            if isinstance(one, dict) and one.get("type") == wanted:
                if one.get("status") == "True":
                    return wanted, Severity.INFO
                return str(one.get("reason") or f"Not{wanted}")[:LONGEST_VALUE], Severity.WARN
    phase = status.get("phase", status.get("state"))
    return (phase[:LONGEST_VALUE] if isinstance(phase, str) else ""), Severity.INFO


def value_at(tree: Any, path: str) -> Any:
    """What is at a path such as `spec.workers[0].replicas`; None where nothing is."""
    for match in STEP.finditer(path):
        name, place = match.groups()
        if place is not None:
            number = int(place)
            if not isinstance(tree, list) or number >= len(tree):
                return None
            tree = tree[number]
        elif isinstance(tree, dict):
            tree = tree.get(name)
        else:
            return None
    return tree


def _text(value: Any) -> str:
    return "" if value is None or isinstance(value, dict | list) else str(value)[:LONGEST_VALUE]


def _short(value: Any) -> Any:
    if isinstance(value, str):
        return value[:LONGEST_VALUE]
    if isinstance(value, dict | list) or (
        isinstance(value, int) and not -LARGEST <= value <= LARGEST
    ):
        return str(value)[:LONGEST_VALUE]
    return value


READERS: Final[Mapping[str, Callable[[Any], Read]]] = {
    "kubernetes.node": node,
    "kubernetes.ingress": ingress,
    "kubernetes.persistentvolumeclaim": claim,
    "kubernetes.certificate": certificate,
    "kubernetes.horizontalpodautoscaler": autoscaler,
}
"""By the kind of the resource; services and custom resources need more than the object."""
