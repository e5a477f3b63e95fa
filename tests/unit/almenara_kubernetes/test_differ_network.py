"""Services, endpoints and ingresses as signals."""

from collections.abc import Sequence
from typing import Any

import pytest

from almenara.signals import Resource, Severity, Signal
from almenara_kubernetes.differ import ClusterDiffer
from almenara_kubernetes.kinds import (
    ENDPOINT_SLICES,
    INGRESSES,
    PODS,
    SERVICES,
)
from support.kubernetes_objects import make_object, resources


def test_service_counts_ready_endpoints_of_all_slices() -> None:
    def part(name: str, **ready: bool) -> Any:
        return make_object(
            ENDPOINT_SLICES, name, meta={"labels": {"kubernetes.io/service-name": "it"}},
            endpoints=[
                {"addresses": ["10.0.0.1"], "conditions": {"ready": one},
                 "targetRef": {"kind": "Pod", "name": pod_name}}
                for pod_name, one in ready.items()
            ],
        )  # fmt: skip

    differ = ClusterDiffer()
    differ.replace_all(ENDPOINT_SLICES, "", [])
    (before,) = resources(
        differ.update(SERVICES, make_object(SERVICES, spec={"selector": {"a": "b"}}))
    )
    differ.update(ENDPOINT_SLICES, part("one", a=True, b=False))
    (after,) = resources(differ.update(ENDPOINT_SLICES, part("two", c=True)))
    (less,) = resources(differ.remove(ENDPOINT_SLICES, part("one")))

    assert (before.status, before.severity) == ("No endpoints", Severity.ERROR)
    assert (after.state["ready"], after.state["endpoints"]) == (2, 3)
    assert (less.state["ready"], less.state["endpoints"]) == (1, 1)


@pytest.mark.parametrize(
    ("tls", "hosts", "status", "routes"),
    [
        ([["a.example.org"]], ["a.example.org"], "TLS", "a.example.org/ to web:80"),
        ([], ["a.example.org"], "Plain HTTP", "a.example.org/ to web:80 without TLS"),
        ([["a.example.org"]], ["a.example.org", "b.example.org"], "Partly plain HTTP",
         "a.example.org/ to web:80, b.example.org/ to web:80 without TLS"),
        ([["*.example.org"]], ["a.example.org", "b.a.example.org", "example.org"],
         "Partly plain HTTP",
         "a.example.org/ to web:80, b.a.example.org/ to web:80 without TLS,"
         " example.org/ to web:80 without TLS"),
        ([[]], ["a.example.org", ""], "TLS", "a.example.org/ to web:80, / to web:80"),
        ([["a.example.org"]], [""], "Plain HTTP", "/ to web:80 without TLS"),
        ([["*.example.org"]], ["*.example.org"], "TLS", "*.example.org/ to web:80"),
        ([["a.example.org"]], [], "No rules", None),
    ],
)  # fmt: skip
def test_ingress_reports_which_hosts_have_tls(
    tls: list[list[str]], hosts: list[str], status: str, routes: str | None
) -> None:
    backend = {"service": {"name": "web", "port": {"number": 80}}}
    one = make_object(
        INGRESSES,
        spec={
            "tls": [{"hosts": names, "secretName": "keys"} for names in tls],
            "rules": [{"host": name, "http": {"paths": [{"path": "/", "backend": backend}]}}
                      for name in hosts],
        },
    )  # fmt: skip

    (sent,) = resources(ClusterDiffer().update(INGRESSES, one))

    assert (sent.status, sent.state.get("rules")) == (status, routes)
    assert (sent.severity == Severity.INFO) == (status == "TLS")


def endpoint_slice(name: str, service: str, *endpoints: tuple[str, dict[str, Any]]) -> Any:
    return make_object(
        ENDPOINT_SLICES, name, meta={"labels": {"kubernetes.io/service-name": service}},
        endpoints=[
            {"addresses": ["10.0.0.1"], "conditions": conditions,
             "targetRef": {"kind": "Pod", "name": pod_name}}
            for pod_name, conditions in endpoints
        ],
    )  # fmt: skip


def test_endpoint_slice_that_changes_its_service_updates_both() -> None:
    differ = ClusterDiffer()
    differ.replace_all(ENDPOINT_SLICES, "", [])
    for name in ("old", "new"):
        differ.update(SERVICES, make_object(SERVICES, name, spec={"selector": {"app": name}}))
    differ.update(ENDPOINT_SLICES, endpoint_slice("slice", "old", ("a", {"ready": True})))

    sent = resources(
        differ.update(ENDPOINT_SLICES, endpoint_slice("slice", "new", ("a", {"ready": True})))
    )

    assert {(one.name, one.status) for one in sent} == {("old", "No endpoints"), ("new", "Serving")}


READY = {"ready": True, "serving": True, "terminating": False}
DRAINING = {"ready": False, "serving": True, "terminating": True}
ENDING = {"ready": False, "serving": False, "terminating": True}
UNREADY = {"ready": False, "serving": False, "terminating": False}


@pytest.mark.parametrize(
    ("endpoints", "status", "ready", "total"),
    [
        ([READY, DRAINING], "Serving", 1, 1),
        ([READY, ENDING, ENDING], "Serving", 1, 1),
        ([READY, UNREADY, DRAINING], "Degraded", 1, 2),
        ([DRAINING, ENDING], "Draining", 0, 0),
        ([ENDING], "No endpoints", 0, 0),
        ([UNREADY, DRAINING], "Draining", 0, 1),
        ([{}], "Serving", 1, 1),
        ([{"ready": True, "terminating": True}], "Draining", 0, 0),
    ],
)
def test_service_counts_terminating_endpoints_as_they_route(
    endpoints: list[dict[str, Any]], status: str, ready: int, total: int
) -> None:
    differ = ClusterDiffer()
    differ.replace_all(ENDPOINT_SLICES, "", [])
    web = make_object(SERVICES, "web", spec={"selector": {"app": "web"}})
    signals = differ.update(SERVICES, web)
    named = [(f"pod-{place}", conditions) for place, conditions in enumerate(endpoints)]

    signals += differ.update(ENDPOINT_SLICES, endpoint_slice("slice", "web", *named))

    # The state of the service, whether or not the second update differs from the first.
    service = [signal for signal in signals if isinstance(signal, Resource)][-1]
    assert (service.status, service.state["ready"], service.state["endpoints"]) == (
        status, ready, total,
    )  # fmt: skip


def service(name: str = "web", namespace: str = "shop", **spec: Any) -> Any:
    return make_object(
        SERVICES, name, meta={"namespace": namespace}, spec={"selector": {"app": name}, **spec}
    )


def ready(namespace: str = "shop", *pods: str) -> Any:
    """A slice of the service `web` with ready pods."""
    return make_object(
        ENDPOINT_SLICES, f"slice-{namespace}",
        meta={"labels": {"kubernetes.io/service-name": "web"}, "namespace": namespace},
        endpoints=[
            {"addresses": ["10.0.0.1"], "conditions": READY, "targetRef": {"name": pod_name}}
            for pod_name in pods
        ],
    )  # fmt: skip


def described(signals: Sequence[Signal]) -> list[tuple[str, str, Severity, Any, Any, Any]]:
    return [
        (
            each.namespace, each.status, each.severity, each.state.get("ready"),
            each.state.get("endpoints"), each.state.get("pods"),
        )
        for each in resources(signals)
    ]  # fmt: skip


UNKNOWN = ("Unknown", Severity.INFO, None, None, None)
SERVING = ("Serving", Severity.INFO, 1, 1, ["a"])
NONE = ("No endpoints", Severity.ERROR, 0, 0, None)


def test_endpoints_are_unknown_until_they_are_listed() -> None:
    differ = ClusterDiffer()
    services = [service(), service("idle")]

    before = differ.replace_all(SERVICES, "", services)
    after = differ.replace_all(ENDPOINT_SLICES, "", [ready("shop", "a")])

    assert described(before) == [("shop", *UNKNOWN)] * 2
    # Each once: a service with several slices has no state in between.
    assert described(after) == [("shop", *SERVING), ("shop", *NONE)]
    assert differ.replace_all(ENDPOINT_SLICES, "", [ready("shop", "a")]) == []


def test_service_without_endpoints_of_its_own_is_not_unknown() -> None:
    external = service(type="ExternalName", externalName="example.org")
    assert [status for _, status, *_ in described(ClusterDiffer().update(SERVICES, external))] == [
        "External"
    ]


def test_endpoints_are_known_where_they_are_listed() -> None:
    differ = ClusterDiffer()
    for namespace in ("shop", "lab"):
        differ.update(SERVICES, service(namespace=namespace))

    in_shop = differ.replace_all(ENDPOINT_SLICES, "shop", [ready("shop", "a")])
    # A ClusterRole is granted: those of all namespaces are listed.
    in_all = differ.replace_all(ENDPOINT_SLICES, "", [ready("shop", "a"), ready("lab", "a")])

    assert described(in_shop) == [("shop", *SERVING)]
    assert described(in_all) == [("lab", *SERVING)]


def test_endpoints_are_unknown_once_they_are_not_watched_any_more() -> None:
    differ = ClusterDiffer()
    for namespace in ("shop", "lab"):
        differ.update(SERVICES, service(namespace=namespace))
        differ.replace_all(ENDPOINT_SLICES, namespace, [ready(namespace, "a")])

    # The watch of all namespaces is refused again and again beside those of single ones.
    refused = differ.stop_watching(ENDPOINT_SLICES, "")
    forbidden = differ.stop_watching(ENDPOINT_SLICES, "shop")
    repeated = differ.stop_watching(ENDPOINT_SLICES, "shop")
    ended = differ.replace_all(ENDPOINT_SLICES, "lab", [], is_watched=False)
    changed = differ.update(ENDPOINT_SLICES, ready("shop", "a", "b"))
    listed = differ.replace_all(ENDPOINT_SLICES, "shop", [ready("shop", "a")])

    assert refused == repeated == changed == []
    assert described(forbidden) == [("shop", *UNKNOWN)]
    assert described(ended) == [("lab", *UNKNOWN)]
    assert described(listed) == [("shop", *SERVING)]
    assert differ.stop_watching(PODS, "shop") == []
