"""The endpoints of services, put together from their EndpointSlices."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Final

from almenara_kubernetes.mapping.network import EndpointState, endpoint_state
from almenara_kubernetes.mapping.owners import Key
from almenara_kubernetes.models import EndpointSlice

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
