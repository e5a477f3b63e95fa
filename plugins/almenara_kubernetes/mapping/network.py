"""Services with their endpoints, and ingresses, as resources."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from almenara.signals import Severity
from almenara_kubernetes.mapping import Mapped
from almenara_kubernetes.models import (
    EndpointConditions,
    Ingress,
    IngressRule,
    LoadBalancerIngress,
    Service,
)

LISTED: Final = 50
"""Rules of an ingress that are written out."""

EndpointState = Literal["ready", "draining", "unready", "terminating"]
"""`draining` endpoints terminate and still serve; `terminating` ones do not serve any more."""


def endpoint_state(conditions: EndpointConditions) -> EndpointState:
    """The state of an endpoint, where unknown conditions count as kube-proxy counts them.

    https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/#conditions
    """
    if conditions.terminating:
        is_serving = conditions.ready if conditions.serving is None else conditions.serving
        return "draining" if is_serving is not False else "terminating"
    return "ready" if conditions.ready is not False else "unready"


def map_service(service: Service, endpoints: Mapping[str, EndpointState] | None) -> Mapped:
    """A service with its endpoints, by the name of their pod or their address; None where they are
    unknown.

    Traffic goes to the ready ones or, where none is left, to those that terminate and still serve;
    terminating ones count for nothing else. A service with a selector and no endpoint is an error.
    """
    states = list((endpoints or {}).values())
    ready, draining = states.count("ready"), states.count("draining")
    remaining = ready + states.count("unready")
    text, severity = "Serving", Severity.INFO
    if service.spec.type == "ExternalName":
        text = "External"
    elif endpoints is None:
        text = "Unknown"
    elif not ready and draining:
        text, severity = "Draining", Severity.WARN
    elif not ready:
        text = "No endpoints"
        severity = Severity.ERROR if service.spec.selector else Severity.DEBUG
    elif ready < remaining:
        text, severity = "Degraded", Severity.WARN
    return text, severity, {
        "type": service.spec.type,
        "cluster_ip": service.spec.cluster_ip,
        "external": _external_address(service),
        "ports": ", ".join(
            f"{port.port}{f':{port.node_port}' if port.node_port else ''}/{port.protocol}"
            for port in service.spec.ports
        ),
        "selector": dict(service.spec.selector),
        "ready": ready if endpoints is not None else None,
        "draining": draining or None,
        "endpoints": remaining if endpoints is not None else None,
        "pods": sorted(endpoints or ()),
    }  # fmt: skip


def _external_address(service: Service) -> str:
    """The column EXTERNAL-IP of kubectl; empty where that is `<none>`."""
    spec = service.spec
    if spec.external_name:
        return spec.external_name
    addresses = _join_addresses(service.status.load_balancer.ingress)
    fixed = ", ".join(spec.external_ips)
    if spec.type == "LoadBalancer":
        return ", ".join(filter(None, (addresses, fixed))) or "<pending>"
    return fixed


def _join_addresses(addresses: Sequence[LoadBalancerIngress]) -> str:
    return ", ".join(address.hostname or address.ip for address in addresses)


def map_ingress(ingress: Ingress) -> Mapped:
    """An ingress: its hosts, whether each has TLS, and the services behind it."""
    tls_hosts = {host for entry in ingress.spec.tls for host in entry.hosts}
    is_default_tls = any(not entry.hosts for entry in ingress.spec.tls)
    routes = [
        route
        for rule in ingress.spec.rules
        for route in _map_rule(rule, is_default_tls or _is_covered(rule.host, tls_hosts))
    ]
    default = ingress.spec.default_backend.service
    if default.name:
        port = str(default.port.name or default.port.number or "")
        routes.append(
            {"host": "*", "tls": is_default_tls, "path": "/", "service": default.name, "port": port}
        )
    address = _join_addresses(ingress.status.load_balancer.ingress)
    is_secure = {bool(route["tls"]) for route in routes}
    text = {(): "No rules", (True,): "TLS", (False,): "Plain HTTP"}.get(
        tuple(is_secure), "Partly plain HTTP"
    )
    severity = Severity.INFO if text == "TLS" else Severity.WARN
    return text, severity, {
        "class": ingress.spec.ingress_class_name,
        "address": address,
        "hosts": ", ".join(sorted({str(route["host"]) for route in routes})),
        "secrets": ", ".join(entry.secret_name for entry in ingress.spec.tls if entry.secret_name),
        "rules": ", ".join(map(_describe_route, routes[:LISTED])),
    }  # fmt: skip


def _map_rule(rule: IngressRule, tls: bool) -> list[dict[str, Any]]:
    return [
        {
            "host": rule.host or "*",
            "tls": tls,
            "path": path.path or "/",
            "service": path.backend.service.name,
            "port": str(path.backend.service.port.name or path.backend.service.port.number or ""),
        }
        for path in rule.http.paths
    ]


def _describe_route(route: Mapping[str, Any]) -> str:
    port = f":{route['port']}" if route["port"] else ""
    host = "" if route["host"] == "*" else route["host"]
    plain = "" if route["tls"] else " without TLS"
    return f"{host}{route['path']} to {route['service']}{port}{plain}"


def _is_covered(host: str, tls_hosts: set[str]) -> bool:
    """Whether a host has TLS; a wildcard covers one label."""
    return host in tls_hosts or f"*.{host.partition('.')[2]}" in tls_hosts
