"""Objects as YAML, without their secrets, read from the API server on request."""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from almenara.hookspecs import ClusterRight, Line, LogAccess
from almenara.sdk import NotFound, blocking, describe_error
from almenara_kube.client import connect
from almenara_kube.errors import ApiError
from almenara_kube.kinds import WatchedKind
from almenara_kube.objects import DECODE_ERRORS
from almenara_kubernetes.kinds import READABLE
from almenara_kubernetes.masking import render_manifest
from almenara_kubernetes.rbac import dump_inline, read_rule
from almenara_kubernetes.settings import NAME, ClusterSettings, KubernetesSettings, source_name

Filters = Mapping[str, str]
OBJECT: Final = re.compile(r"([A-Za-z]{1,40})/([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)")
LARGEST: Final = 4 * 2**20
"""Bytes of an object: more than an API server accepts."""


def select_object(filters: Filters) -> tuple[WatchedKind, str]:
    """The kind and the name in the filter `name`, such as `Deployment/checkout`.

    Raises `NotFound`.
    """
    match = OBJECT.fullmatch(filters.get("name", ""))
    kind = READABLE.get(match[1]) if match else None
    if match is None or kind is None:
        raise NotFound(
            f"choose one of {', '.join(READABLE)} by its namespace and its name, as in"
            " ?namespace=shop&name=Deployment/checkout"
        )
    return kind, match[2]


def select_cluster(settings: KubernetesSettings, filters: Filters) -> tuple[ClusterSettings, str]:
    """The cluster and the namespace in the filter `namespace`, which may be
    `<cluster>/<namespace>`.

    Raises `NotFound`.
    """
    name, _, namespace = filters.get("namespace", "").rpartition("/")
    is_only = not name and len(settings.clusters) == 1
    cluster = next((known for known in settings.clusters if known.name == name or is_only), None)
    if cluster is None:
        raise NotFound(f"no cluster {name!r} is configured")
    # It becomes part of a path: nothing but a name may get there.
    if not NAME.fullmatch(namespace):
        raise NotFound("choose an object: its namespace and its name")
    if cluster.namespaces and namespace not in cluster.namespaces:
        raise NotFound(f"the namespace {namespace} is not watched (namespaces)")
    return cluster, namespace


def cluster_access(cluster: ClusterSettings, namespace: str, right: ClusterRight) -> LogAccess:
    """The source and the namespace that something belongs to, and the right to read it."""
    full = f"{cluster.name}/{namespace}" if cluster.name else namespace
    return LogAccess(source=source_name(cluster), namespace=full, right=right)


def read_right(kind: WatchedKind) -> ClusterRight:
    """The right to read an object of a kind whole."""
    return ClusterRight(verb="get", group=kind.group, resource=kind.plural)


class Manifests:
    """A log stream: the YAML of the object `name` (`Pod/checkout-1`) in `namespace`, once."""

    name = "manifest"

    def __init__(self, settings: KubernetesSettings) -> None:
        self.settings = settings
        self.rights = [read_right(kind) for kind in READABLE.values()] if settings.yaml else []

    def access_for(self, filters: Filters) -> LogAccess:
        """The source and the namespace of the object."""
        self._check_enabled()
        kind, _ = select_object(filters)
        return cluster_access(*select_cluster(self.settings, filters), read_right(kind))

    async def lines(self, filters: Filters) -> AsyncIterator[Sequence[Line]]:
        """All its lines. Raises `NotFound` and `OSError`."""
        self._check_enabled()
        kind, name = select_object(filters)
        cluster, namespace = select_cluster(self.settings, filters)
        try:
            async with connect(cluster.kube_context, self.settings) as client:
                body = await client.get(f"{kind.path_in(namespace)}/{name}")
        except ApiError as error:
            raise NotFound(_describe_refusal(error, kind, namespace, name)) from None
        yield await blocking(lambda: render_object(body))

    def _check_enabled(self) -> None:
        if not self.settings.yaml:
            raise NotFound(
                "YAML is switched off; set plugins.kubernetes.yaml to true and grant the rules"
                " that `almenara kubernetes rbac` then prints"
            )


def render_object(body: bytes) -> list[Line]:
    """The lines of an object in an answer of the API. Raises `NotFound`."""
    if len(body) > LARGEST:
        raise NotFound(f"the object is too large to be displayed: {len(body):,} bytes")
    try:
        tree = msgspec.json.decode(body, type=dict[str, Any])
    except DECODE_ERRORS as error:
        raise NotFound(f"the object cannot be read: {describe_error(error, 200)}") from None
    return [Line(text=line) for line in render_manifest(tree)]


def _describe_refusal(error: ApiError, kind: WatchedKind, namespace: str, name: str) -> str:
    if error.status == 404:
        return f"{kind.api_kind} {name} in {namespace} does not exist any more"
    if error.status == 403:
        return (
            f"the API server refuses it ({error}); missing in the rules of a Role in"
            f" {namespace}: {dump_inline(read_rule(kind))}"
        )
    return str(error)
