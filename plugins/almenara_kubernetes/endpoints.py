"""Services and their endpoints, which are put together from EndpointSlices."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Final

from almenara_kubernetes.mapping.network import EndpointState, endpoint_state
from almenara_kubernetes.mapping.owners import Key
from almenara_kubernetes.models import EndpointSlice, Service

SERVICE_LABEL: Final = "kubernetes.io/service-name"
ORDER: Final[tuple[EndpointState, ...]] = ("ready", "draining", "unready", "terminating")
"""A pod with addresses of two families is in two slices; the first of these states counts."""


class EndpointIndex:
    """Knows the endpoints of each service. Keys are namespace and name."""

    def __init__(self) -> None:
        self._slices: dict[Key, tuple[Key, Mapping[str, EndpointState]]] = {}
        """The service and the endpoints of each slice."""
        self._of_service: dict[Key, set[Key]] = defaultdict(set)

    def update(self, key: Key, endpoint_slice: EndpointSlice) -> list[Key]:
        """Add or replace a slice; return the services whose endpoints may have changed."""
        changed = self.remove(key)
        service = (key[0], endpoint_slice.metadata.labels.get(SERVICE_LABEL, ""))
        endpoints: dict[str, EndpointState] = {}
        for endpoint in endpoint_slice.endpoints:
            address = endpoint.addresses[0] if endpoint.addresses else ""
            endpoints[endpoint.target_ref.name or address] = endpoint_state(endpoint.conditions)
        self._slices[key] = (service, endpoints)
        self._of_service[service].add(key)
        return list(dict.fromkeys([*changed, service]))

    def remove(self, key: Key) -> list[Key]:
        """Remove a slice; return the service whose endpoints may have changed."""
        if key not in self._slices:
            return []
        service, _ = self._slices.pop(key)
        self._of_service[service].discard(key)
        if not self._of_service[service]:
            del self._of_service[service]
        return [service]

    def endpoints(self, service: Key) -> dict[str, EndpointState]:
        """The endpoints of a service, by the name of their pod or their address."""
        endpoints: dict[str, EndpointState] = {}
        for key in sorted(self._of_service.get(service, ())):
            for name, state in self._slices[key][1].items():
                endpoints[name] = min(endpoints.get(name, state), state, key=ORDER.index)
        return endpoints


class ServiceIndex:
    """Knows the services, and the endpoints of each where EndpointSlices are listed.

    Without that, as at the start or where RBAC forbids it, a service is not without endpoints: they
    are unknown.
    """

    def __init__(self) -> None:
        self._services: dict[Key, Service] = {}
        self._endpoints = EndpointIndex()
        self._listed: set[str] = set()
        """The namespaces whose slices are listed; empty for all of them."""
        self._changed: dict[Key, None] = {}

    def add(self, key: Key, service: Service) -> None:
        """Add or replace a service."""
        self._services[key] = service

    def remove(self, key: Key) -> None:
        """Remove a service."""
        self._services.pop(key, None)

    def update_slice(self, key: Key, endpoint_slice: EndpointSlice) -> None:
        """Add or replace a slice."""
        self._changed |= dict.fromkeys(self._endpoints.update(key, endpoint_slice))

    def remove_slice(self, key: Key) -> None:
        """Remove a slice."""
        self._changed |= dict.fromkeys(self._endpoints.remove(key))

    def set_listed(self, namespace: str, is_listed: bool) -> None:
        """Note whether all slices of a namespace are known; empty for those of all namespaces."""
        if is_listed:
            # The watch of all namespaces replaces those of single ones.
            self._listed = self._listed | {namespace} if namespace else {""}
        elif namespace in self._listed:
            self._listed.discard(namespace)
        else:
            return
        self._changed |= {key: None for key in self._services if namespace in ("", key[0])}

    def endpoints(self, service: Key) -> Mapping[str, EndpointState] | None:
        """The endpoints of a service; None where they are unknown."""
        if self._listed.isdisjoint(("", service[0])):
            return None
        return self._endpoints.endpoints(service)

    def take_changed(self) -> list[Service]:
        """The services whose endpoints may have changed since the last call."""
        changed, self._changed = self._changed, {}
        return [self._services[key] for key in changed if key in self._services]
