"""Addresses of the plugin's pages."""

from typing import Final
from urllib.parse import urlencode

PAGES: Final = "/dashboards/kubernetes"
WORKLOAD_KINDS: Final = {
    "deployment": "Deployment", "statefulset": "StatefulSet", "daemonset": "DaemonSet",
    "replicaset": "ReplicaSet", "job": "Job", "cronjob": "CronJob",
}  # fmt: skip
"""The kinds of workloads in the API, by their names in resources and subjects."""


def page_url(name: str = "", /, **filters: str) -> str:
    """The address of a page; empty filters are left out."""
    query = urlencode({key: value for key, value in filters.items() if value})
    return f"{PAGES}{f'.{name}' if name else ''}{f'?{query}' if query else ''}"


def cluster_of(namespace: str) -> str:
    """The cluster of a namespace `<cluster>/<namespace>`, which is the namespace of its nodes;
    empty for a cluster without a name."""
    return namespace.rpartition("/")[0]


def owner_url(namespace: str, owner: str) -> str:
    """The page of an owner such as `Deployment/checkout`."""
    kind, _, name = owner.partition("/")
    if kind == "Node":
        return page_url("node", namespace=cluster_of(namespace), name=name)
    return page_url("workload", namespace=namespace, name=owner)


def subject_url(subject: str) -> str:
    """The page of the subject of an event, such as `pod/shop/checkout-1`; empty without one."""
    kind, _, rest = subject.partition("/")
    namespace, _, name = rest.rpartition("/")
    if kind == "pod" and namespace:
        return page_url("pod", namespace=namespace, name=name)
    if kind == "node":
        return page_url("node", namespace=namespace, name=name)
    if kind in WORKLOAD_KINDS and namespace:
        return page_url("workload", namespace=namespace, name=f"{WORKLOAD_KINDS[kind]}/{name}")
    return f"/events?{urlencode({'subject': subject})}" if subject else ""
