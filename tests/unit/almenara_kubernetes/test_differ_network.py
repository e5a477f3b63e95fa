"""Services, endpoints and ingresses as signals."""

from typing import Any

import pytest

from almenara.signals import Resource, Severity
from almenara_kubernetes.differ import ClusterDiffer
from almenara_kubernetes.kinds import (
    ENDPOINT_SLICES,
    INGRESSES,
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
    web = make_object(SERVICES, "web", spec={"selector": {"app": "web"}})
    signals = differ.update(SERVICES, web)
    named = [(f"pod-{place}", conditions) for place, conditions in enumerate(endpoints)]

    signals += differ.update(ENDPOINT_SLICES, endpoint_slice("slice", "web", *named))

    # The state of the service, whether or not the second update differs from the first.
    service = [signal for signal in signals if isinstance(signal, Resource)][-1]
    assert (service.status, service.state["ready"], service.state["endpoints"]) == (
        status, ready, total,
    )  # fmt: skip
