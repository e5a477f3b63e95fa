"""A kind of objects: where the API serves it, and how its objects are decoded."""

import functools
from typing import Any, Final

import msgspec

from almenara_kube.objects import DECODE_ERRORS, KubernetesObject, Malformed, Metadata

LONGEST_PROBLEM: Final = 300


class WatchedKind(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of object that is listed and watched."""

    kind: str
    """The kind of the resources made of it: `kubernetes.pod`."""
    group: str
    """The API group; empty for the core group."""
    version: str
    plural: str
    """The name in the path and in RBAC rules: `pods`."""
    api_kind: str
    """The kind as owner references and events name it: `Pod`."""
    type: type[KubernetesObject]
    """The fields that are decoded."""
    namespaced: bool = True
    optional: bool = False
    """Whether a cluster may lack it, as with a CRD or a newer API; that is not a problem."""
    polled: bool = False
    """Whether it can only be listed: the APIs of metrics.k8s.io have no watch."""

    @property
    def api_version(self) -> str:
        """As an object has it: `v1`, `apps/v1`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def path(self) -> str:
        """The path of its API group and version: `/apis/apps/v1`."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    def path_in(self, namespace: str) -> str:
        """The path of its objects in a namespace or, where that is empty, in all of them."""
        inside = f"/namespaces/{namespace}" if namespace and self.namespaced else ""
        return f"{self.path}{inside}/{self.plural}"

    def decode(self, raw: bytes | msgspec.Raw) -> KubernetesObject:
        """Decode an object; `Malformed` where the bytes are not an object of this kind.

        Raises nothing: the problem is in the object.
        """
        try:
            decoded: KubernetesObject = _decoder(self.type).decode(raw)
        except DECODE_ERRORS as error:
            return _decode_without_nulls(self.type, raw, error)
        return decoded


@functools.cache
def _decoder(kind: type[KubernetesObject]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind, strict=False)


def _decode_without_nulls(
    kind: type[KubernetesObject], raw: bytes | msgspec.Raw, first: Exception
) -> KubernetesObject:
    """Decode again without the nulls that some clients write for absent fields."""
    try:
        tree = msgspec.json.decode(raw)
        decoded: KubernetesObject = msgspec.convert(drop_nulls(tree), kind, strict=False)
    except DECODE_ERRORS:
        return Malformed(metadata=_decode_metadata(raw), problem=str(first)[:LONGEST_PROBLEM])
    return decoded


def drop_nulls(tree: Any) -> Any:
    """Return a decoded JSON value without the members that are null, at any depth."""
    if isinstance(tree, dict):
        return {name: drop_nulls(value) for name, value in tree.items() if value is not None}
    if isinstance(tree, list):
        return [drop_nulls(value) for value in tree if value is not None]
    return tree


def _decode_metadata(raw: bytes | msgspec.Raw) -> Metadata:
    """The parts of the metadata that can be read of an object that is malformed elsewhere."""
    try:
        tree = msgspec.json.decode(raw)
    except DECODE_ERRORS:
        return Metadata()
    metadata = tree.get("metadata") if isinstance(tree, dict) else None
    if not isinstance(metadata, dict):
        return Metadata()
    texts = {
        name: metadata[key]
        for name, key in (
            ("name", "name"),
            ("namespace", "namespace"),
            ("uid", "uid"),
            ("resource_version", "resourceVersion"),
        )
        if isinstance(metadata.get(key), str)
    }
    return Metadata(**texts)
