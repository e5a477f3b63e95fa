"""Addresses of the plugin's pages, and of pages of the Kubernetes plugin."""

from urllib.parse import urlencode

from almenara.hookspecs import DataView


def page_address(page: str, **query: str) -> str:
    """Return the address of a dashboard page, without empty parameters."""
    chosen = {name: value for name, value in query.items() if value}
    return f"/dashboards/{page}" + (f"?{urlencode(chosen)}" if chosen else "")


def job_address(cluster: str, job: str) -> str:
    """Return the address of the page of one job."""
    return page_address("ray.job", namespace=cluster, name=job)


def events_address(**query: str) -> str:
    """Return the address of the events page with a filter."""
    return f"/events?{urlencode(query)}"


def pod_address(data: DataView, namespace: str, pod: str) -> str:
    """Return the address of a pod's page; empty where the Kubernetes plugin does not watch it."""
    if not namespace or not pod or data.resource("kubernetes.pod", namespace, pod) is None:
        return ""
    return page_address("kubernetes.pod", namespace=namespace, name=pod)
