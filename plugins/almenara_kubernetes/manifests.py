"""Objects as YAML, without their secrets, read of the API server when somebody asks."""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from almenara.hookspecs import ClusterRight, Line, LogAccess
from almenara.sdk import NotFound, blocking
from almenara_kube.client import connect
from almenara_kube.errors import ApiError
from almenara_kube.kinds import WatchedKind
from almenara_kube.objects import DECODE_ERRORS
from almenara_kubernetes.masking import manifest
from almenara_kubernetes.rbac import flow, rule_to_read
from almenara_kubernetes.settings import NAME, ClusterSettings, KubernetesSettings, source_name
from almenara_kubernetes.watched import READABLE

Asked = Mapping[str, str]
OBJECT: Final = re.compile(r"([A-Za-z]{1,40})/([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)")
LARGEST: Final = 4 * 2**20
"""Bytes of an object: more than an API server takes."""


def asked_object(asked: Asked) -> tuple[WatchedKind, str]:
    """The kind and the name in `name`, which is as `Deployment/checkout`. Raises `NotFound`."""
    match = OBJECT.fullmatch(asked.get("name", ""))
    found = READABLE.get(match[1]) if match else None
    if match is None or found is None:
        raise NotFound(
            f"choose one of {', '.join(READABLE)} by its namespace and its name, as in"
            " ?namespace=shop&name=Deployment/checkout"
        )
    return found, match[2]


def chosen_cluster(settings: KubernetesSettings, asked: Asked) -> tuple[ClusterSettings, str]:
    """The cluster of `namespace`, which may be `<cluster>/<namespace>`, and the namespace in it.

    Raises `NotFound`.
    """
    called, _, inside = asked.get("namespace", "").rpartition("/")
    clusters = settings.clusters
    found = [it for it in clusters if it.name == called or (not called and len(clusters) == 1)]
    if not found:
        raise NotFound(f"no cluster {called!r} is configured")
    # It becomes part of an address: nothing but a name may get there.
    if not NAME.fullmatch(inside):
        raise NotFound("choose an object: its namespace and its name")
    (cluster,) = found
    if cluster.namespaces and inside not in cluster.namespaces:
        raise NotFound(f"the namespace {inside} is not watched (namespaces)")
    return cluster, inside


def belonging(cluster: ClusterSettings, namespace: str, right: ClusterRight) -> LogAccess:
    """Where something in a namespace of a cluster belongs, and the right that seeing it takes."""
    called = f"{cluster.name}/{namespace}" if cluster.name else namespace
    return LogAccess(source=source_name(cluster), namespace=called, right=right)


def right_to_read(watched: WatchedKind) -> ClusterRight:
    """What somebody must be allowed to, to see an object of a kind whole."""
    return ClusterRight(verb="get", group=watched.group, resource=watched.plural)


class Manifests:
    """A tail: the YAML of the object `name` (`Pod/checkout-1`) in `namespace`, once."""

    name = "manifest"

    def __init__(self, settings: KubernetesSettings) -> None:
        self.settings = settings
        self.rights = [right_to_read(it) for it in READABLE.values()] if settings.yaml else []

    def access_for(self, asked: Asked) -> LogAccess:
        """The source and the namespace of the object."""
        self._check_switched_on()
        watched, _ = asked_object(asked)
        return belonging(*chosen_cluster(self.settings, asked), right_to_read(watched))

    async def lines(self, asked: Asked) -> AsyncIterator[Sequence[Line]]:
        """All its lines. Raises `NotFound` and `OSError`."""
        self._check_switched_on()
        watched, name = asked_object(asked)
        cluster, namespace = chosen_cluster(self.settings, asked)
        path = f"{watched.path}/namespaces/{namespace}/{watched.plural}/{name}"
        try:
            async with connect(cluster.kube_context, self.settings) as connection:
                body = await connection.get(path)
        except ApiError as error:
            raise NotFound(_refused(error, watched, namespace, name)) from None
        yield await blocking(lambda: written(body))

    def _check_switched_on(self) -> None:
        if not self.settings.yaml:
            raise NotFound(
                "YAML is switched off; set plugins.kubernetes.yaml to true and grant the rules"
                " that `almenara kubernetes rbac` then prints"
            )


def written(body: bytes) -> list[Line]:
    """The lines of an object as the API gives it. Raises `NotFound`."""
    if len(body) > LARGEST:
        raise NotFound(f"the object is too large to be shown: {len(body):,} bytes")
    try:
        tree = msgspec.json.decode(body, type=dict[str, Any])
    except DECODE_ERRORS as error:
        raise NotFound(f"the object cannot be read: {str(error)[:200]}") from None
    return [Line(text=it) for it in manifest(tree)]


def _refused(error: ApiError, watched: WatchedKind, namespace: str, name: str) -> str:
    if error.status == 404:
        return f"there is no {watched.api_kind} {name} in {namespace} any more"
    if error.status == 403:
        return (
            f"the API server refuses it ({error}); what is missing in the rules of a Role in"
            f" {namespace}: {flow(rule_to_read(watched))}"
        )
    return str(error)
