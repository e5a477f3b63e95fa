"""How the names in a cluster become those of resources and events."""

from almenara.hookspecs import ResourceKey


class ClusterNames:
    """The names of one cluster, whose own name stands in front of every namespace if it has one."""

    def __init__(self, cluster: str) -> None:
        self.cluster = cluster

    def namespace(self, native: str) -> str:
        """The namespace of resources and events; empty for the cluster itself."""
        return "/".join(filter(None, (self.cluster, native)))

    def native_namespace(self, namespace: str) -> str:
        """The namespace by its name in the cluster."""
        return namespace.removeprefix(self.cluster).removeprefix("/")

    def subject(self, kind: str, native: str, name: str) -> str:
        """The subject of the events of an object: `pod/shop/checkout-1`."""
        return "/".join(filter(None, (kind.lower(), self.namespace(native), name)))

    def resource_key(self, kind: str, key: tuple[str, str]) -> ResourceKey:
        """The key of the resource of an object, by its namespace and name in the cluster."""
        return kind, self.namespace(key[0]), key[1]
