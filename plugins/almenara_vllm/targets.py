"""Where servers are: at a configured address, behind a name, on the nodes of a Ray cluster, or in
the pods of a Kubernetes cluster."""

import ipaddress
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import msgspec

from almenara.sdk import describe_error, monotonic
from almenara.sdk.http import Resolver
from almenara_vllm.client import DashboardReader, ServerError
from almenara_vllm.settings import (
    Entry,
    KubernetesSettings,
    RaySettings,
    VllmServerSettings,
    VllmSettings,
)

MAX_TARGETS: Final = 200
PORT: Final = re.compile(r"\d{1,5}")


class Targets(Protocol):
    """The addresses of servers; they can change."""

    async def list_urls(self) -> dict[str, str]:
        """The address of each server by its name. Raises `OSError` and `ServerError`."""

    async def close(self) -> None:
        """Close the connections."""


class ConfiguredTargets:
    """The address of the settings or, with `resolve`, each address that its host has."""

    def __init__(self, settings: VllmServerSettings, resolver: Resolver) -> None:
        self._settings, self._resolver = settings, resolver

    async def list_urls(self) -> dict[str, str]:
        """As `Targets.list_urls`."""
        settings = self._settings
        if not settings.resolve:
            return {settings.name: settings.url.rstrip("/")}
        parts = urlsplit(settings.url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        addresses = await self._resolver.resolve(parts.hostname or "", port)
        return {
            f"{settings.name}/{address}": make_url(parts.scheme, address, port, parts.path)
            for address in sorted(set(addresses))[:MAX_TARGETS]
        }

    async def close(self) -> None:
        """Nothing is open."""


class RayTargets:
    """The pages of metrics of the nodes of a Ray cluster, as its dashboard lists them for
    Prometheus (`/api/prometheus/sd`, an HTTP service discovery)."""

    def __init__(self, settings: RaySettings, body_limit: int) -> None:
        self._settings, self._reader = settings, DashboardReader(settings, body_limit)
        self._urls: dict[str, str] = {}
        self._listed_at = -math.inf

    async def list_urls(self) -> dict[str, str]:
        """As `Targets.list_urls`."""
        if monotonic() - self._listed_at >= self._settings.discover_every:
            addresses = parse_addresses(await self._reader.read_targets())
            self._urls = {
                f"{self._settings.name}/{address}": f"http://{address}/metrics"
                for address in addresses[:MAX_TARGETS]
            }
            self._listed_at = monotonic()
        return self._urls

    async def close(self) -> None:
        """Close the connections."""
        await self._reader.close()


def parse_addresses(body: bytes) -> list[str]:
    """The addresses of an HTTP service discovery
    (https://prometheus.io/docs/prometheus/latest/http_sd/): an IP address and a port each. Others
    are left out, since a name could lead anywhere. Raises `ServerError`."""
    try:
        groups = msgspec.json.decode(body, type=list[_TargetGroup])
    except msgspec.MsgspecError as error:
        raise ServerError(f"the list of targets cannot be read: {error}"[:300]) from None
    addresses = []
    for target in (target for group in groups for target in group.targets):
        host, _, port = target.rpartition(":")
        if _is_address(host.strip("[]")) and PORT.fullmatch(port) and 0 < int(port) < 65536:
            addresses.append(target)
    return sorted(dict.fromkeys(addresses))


class _TargetGroup(msgspec.Struct):
    targets: list[str] = []


class KubernetesTargets:
    """The pods with some labels, or those behind the Services with some labels."""

    def __init__(self, settings: KubernetesSettings) -> None:
        # The client is an extra, which is loaded only when it is used.
        from almenara_kube.client import connect

        self._settings, self._client = settings, connect(settings.kube_context)
        self._urls: dict[str, str] = {}
        self._listed_at = -math.inf

    async def list_urls(self) -> dict[str, str]:
        """As `Targets.list_urls`."""
        if monotonic() - self._listed_at >= self._settings.discover_every:
            self._urls = await self._list()
            self._listed_at = monotonic()
        return self._urls

    async def _list(self) -> dict[str, str]:
        settings, urls = self._settings, dict[str, str]()
        for namespace in settings.namespaces or [""]:
            inside = f"/namespaces/{namespace}" if namespace else ""
            if settings.services:
                path = f"/apis/discovery.k8s.io/v1{inside}/endpointslices"
                candidates = read_endpoints(await self._get(path, settings.services))
            else:
                candidates = read_pods(await self._get(f"/api/v1{inside}/pods", settings.pods))
            for name, address, is_ready in candidates:
                full = f"{settings.name}/{name}"
                # One that loads its model does not answer yet; one that did is missed.
                if (is_ready or full in self._urls) and len(urls) < MAX_TARGETS:
                    path = "/metrics" if settings.metrics_only else ""
                    urls[full] = make_url(settings.scheme, address, settings.port, path)
        return urls

    async def _get(self, path: str, selector: str) -> Any:
        from almenara_kube.errors import ApiError, UnreachableError

        parameters = {"labelSelector": selector, "limit": str(MAX_TARGETS), "resourceVersion": "0"}
        try:
            body = await self._client.get(path, parameters)
            return msgspec.json.decode(body)
        except ApiError as error:
            hint = "; grant it as `almenara kubernetes rbac` prints" if error.status == 403 else ""
            raise ServerError(f"the API server refuses the list: {error}{hint}") from None
        except (UnreachableError, msgspec.MsgspecError, RecursionError) as error:
            raise ServerError(describe_error(error)) from None

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


Candidates = Iterator[tuple[str, str, bool]]
"""The name of a server, its IP address, and whether it is ready."""


def read_pods(reply: Any) -> Candidates:
    """The running pods of a PodList."""
    for pod in _items(reply):
        metadata, status = _mapping(pod.get("metadata")), _mapping(pod.get("status"))
        name, address = _name(metadata), status.get("podIP")
        if status.get("phase") != "Running" or metadata.get("deletionTimestamp"):
            continue
        conditions = [_mapping(each) for each in status.get("conditions") or []]
        is_ready = any((each.get("type"), each.get("status")) == ("Ready", "True")
                       for each in conditions)  # fmt: skip
        if name and _is_address(address):
            yield name, str(address), is_ready


def read_endpoints(reply: Any) -> Candidates:
    """The endpoints of an EndpointSliceList: a Service passes its labels on to its slices."""
    for part in _items(reply):
        namespace = str(_mapping(part.get("metadata")).get("namespace", ""))
        for endpoint in map(_mapping, part.get("endpoints") or []):
            conditions = _mapping(endpoint.get("conditions"))
            target = _mapping(endpoint.get("targetRef"))
            addresses = endpoint.get("addresses")
            address = addresses[0] if isinstance(addresses, list) and addresses else ""
            if not _is_address(address):
                continue
            name = str(target.get("name") or address)[:253]
            # Absent means ready.
            yield f"{namespace}/{name}", str(address), conditions.get("ready") is not False


def _items(reply: Any) -> list[Mapping[str, Any]]:
    items = _mapping(reply).get("items")
    return [_mapping(each) for each in items] if isinstance(items, list) else []


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _name(metadata: Mapping[str, Any]) -> str:
    namespace, name = metadata.get("namespace"), metadata.get("name")
    return f"{namespace}/{name}" if namespace and name else ""


def _is_address(text: Any) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return isinstance(text, str)


def make_url(scheme: str, address: str, port: int, path: str) -> str:
    """The URL of a server at an IP address."""
    host = f"[{address}]" if ":" in address else address
    return f"{scheme}://{host}:{port}{path}"


def make_targets(settings: Entry, plugin: VllmSettings, resolver: Resolver) -> Targets:
    """The targets of one entry of the settings."""
    if isinstance(settings, VllmServerSettings):
        return ConfiguredTargets(settings, resolver)
    if isinstance(settings, RaySettings):
        return RayTargets(settings, plugin.body_limit)
    return KubernetesTargets(settings)
