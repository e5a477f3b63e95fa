"""The namespaces in which an identity may list kinds that it may not list in the whole cluster.

https://kubernetes.io/docs/reference/kubernetes-api/authorization-resources/self-subject-rules-review-v1/
"""

import asyncio
import re
from collections.abc import Sequence
from typing import Final

import msgspec

from almenara_kube.client import ApiClient
from almenara_kube.errors import ApiError
from almenara_kube.kinds import WatchedKind
from almenara_kube.objects import DECODE_ERRORS, Metadata

REVIEW_PATH: Final = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
NAMESPACES_PATH: Final = "/api/v1/namespaces"
MOST_NAMESPACES: Final = 100
CONCURRENT: Final = 4
ANY: Final = "*"
NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class ResourceRule(msgspec.Struct, rename="camel"):
    """What an identity may do in a namespace, in the terms of a Role."""

    verbs: list[str] = []
    api_groups: list[str] = []
    resources: list[str] = []
    resource_names: list[str] = []


class _Status(msgspec.Struct, rename="camel"):
    resource_rules: list[ResourceRule] = []


class _Review(msgspec.Struct):
    status: _Status = msgspec.field(default_factory=_Status)


class _Namespace(msgspec.Struct):
    metadata: Metadata = msgspec.field(default_factory=Metadata)


class _Namespaces(msgspec.Struct):
    items: list[_Namespace] = []


async def review_namespaces(client: ApiClient) -> dict[str, list[ResourceRule]]:
    """Return the rules of the credentials in each namespace.

    Namespaces are those of the cluster, where they may be listed, and that of the credentials.
    Raises `ApiError`, `UnreachableError`.
    """
    turns = asyncio.Semaphore(CONCURRENT)

    async def review(namespace: str) -> list[ResourceRule]:
        async with turns:
            return await _review(client, namespace)

    names = await _list_candidates(client)
    rules = await asyncio.gather(*map(review, names))
    return dict(zip(names, rules, strict=True))


async def _list_candidates(client: ApiClient) -> list[str]:
    names = {client.namespace} if client.namespace else set()
    try:
        body = await client.get(NAMESPACES_PATH, {"limit": str(MOST_NAMESPACES)})
        names |= {item.metadata.name for item in msgspec.json.decode(body, type=_Namespaces).items}
    except ApiError as error:
        if error.status != 403:
            raise
    except DECODE_ERRORS:
        pass
    return sorted(filter(NAME.fullmatch, names))[:MOST_NAMESPACES]


async def _review(client: ApiClient, namespace: str) -> list[ResourceRule]:
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    answer = await client.post(REVIEW_PATH, msgspec.json.encode(body))
    try:
        return msgspec.json.decode(answer, type=_Review).status.resource_rules
    except DECODE_ERRORS:
        return []


def permits(rules: Sequence[ResourceRule], kind: WatchedKind) -> bool:
    """Whether rules permit to list a kind and, unless it is polled, to watch it."""
    return all(
        any(
            not rule.resource_names
            and {verb, ANY} & set(rule.verbs)
            and {kind.group, ANY} & set(rule.api_groups)
            and {kind.plural, ANY} & set(rule.resources)
            for rule in rules
        )
        for verb in (("list",) if kind.polled else ("list", "watch"))
    )
