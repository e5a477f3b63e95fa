"""The fields that all Kubernetes objects share; each kind adds its own as a subclass.

msgspec leaves every field undecoded that is not named, so managed fields, values of environment
variables and data of secrets never get into memory. Field names are those of the API, in its camel
case: https://kubernetes.io/docs/reference/kubernetes-api/.
"""

from typing import Final

import msgspec

DECODE_ERRORS: Final = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)
"""What decoding raises for bytes that are not JSON, are nested without end, or are not UTF-8."""


class Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    """A part of an object; every field may be absent."""


class OwnerReference(Part, frozen=True):
    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool = False


class Metadata(Part, frozen=True):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str = ""
    deletion_timestamp: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: list[OwnerReference] = []


class KubernetesObject(Part, frozen=True):
    """An object of any kind, with its metadata alone."""

    metadata: Metadata = Metadata()


class Malformed(KubernetesObject, frozen=True):
    """An object that does not have the shape of its kind."""

    problem: str = ""
    """What is wrong with it, for the person who reads it."""


class Condition(Part, frozen=True):
    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""
    last_transition_time: str = ""
