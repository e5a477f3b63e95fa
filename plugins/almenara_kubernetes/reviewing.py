"""What we may do in a cluster, as its API server says (SelfSubjectAccessReview).

https://kubernetes.io/docs/reference/kubernetes-api/authorization-resources/self-subject-access-review-v1/
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from almenara.hookspecs import Finding
from almenara_kube.rules import KubernetesRule
from almenara_kubernetes.connection import Connection, RefusedError
from almenara_kubernetes.credentials import UnreachableError
from almenara_kubernetes.settings import ClusterSettings, KubernetesSettings

PATH: Final = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
AT_ONCE: Final = 4
GRANT: Final = "Grant what `almenara kubernetes rbac` prints."

Right = tuple[str, str, str]
"""API group, resource and verb."""


class _Status(msgspec.Struct):
    allowed: bool = False


class _Answer(msgspec.Struct):
    status: _Status = msgspec.field(default_factory=_Status)


async def review(rules: Sequence[KubernetesRule]) -> Sequence[Finding]:
    """A finding for each cluster: whether all is granted there, or what is missing."""
    clusters: dict[tuple[str, str], list[KubernetesRule]] = defaultdict(list)
    for it in rules:
        clusters[str(it.kubeconfig or ""), it.context].append(it)
    return await asyncio.gather(*(_cluster(its) for its in clusters.values()))


async def _cluster(rules: Sequence[KubernetesRule]) -> Finding:
    name = next((it.cluster for it in rules if it.cluster), "")
    # The name is for people; a rule may come from a plugin that takes more for one.
    place = ClusterSettings(kubeconfig=rules[0].kubeconfig, context=rules[0].context)
    check = f"Kubernetes {name} rights" if name else "Kubernetes rights"
    async with Connection(place, KubernetesSettings(clusters=[place])) as connection:
        try:
            needed = await _needed(connection, rules)
            missing = await _missing(connection, needed)
        except (UnreachableError, RefusedError, msgspec.MsgspecError) as error:
            return Finding(
                check=check, verdict="warning", message=f"nobody could be asked: {error}",
                remedy="Check kubeconfig, context and that the API server runs.",
            )  # fmt: skip
    if missing:
        return Finding(check=check, verdict="warning", message=told(missing), remedy=GRANT)
    count = sum(len(namespaces) for namespaces in needed.values())
    return Finding(check=check, verdict="ok", message=f"all {count} rights are granted")


async def _needed(connection: Connection, rules: Sequence[KubernetesRule]) -> dict[Right, set[str]]:
    """The namespaces that each right is needed in, the empty one for all of them."""
    absent = set[str]()
    for group in sorted({it.group for it in rules if it.optional and it.group}):
        try:
            await connection.get(f"/apis/{group}")
        except RefusedError as error:
            if error.status == 404:
                absent.add(group)
    found: dict[Right, set[str]] = defaultdict(set)
    for it in rules:
        if it.optional and it.group in absent:
            continue
        for resource in it.resources:
            for verb in it.verbs:
                found[it.group, resource, verb] |= set(it.namespaces or ("",))
    return found


async def _missing(
    connection: Connection, needed: Mapping[Right, set[str]]
) -> dict[str, list[Right]]:
    """What is not granted, by namespace."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def may(right: Right, namespace: str) -> bool:
        async with turns:
            return await _allowed(connection, right, namespace)

    async def refused(right: Right, namespaces: set[str]) -> list[str]:
        # Who may everywhere may in each: that is one question instead of many.
        if await may(right, ""):
            return []
        named = sorted(namespaces - {""})
        answers = await asyncio.gather(*(may(right, it) for it in named))
        return ([""] if "" in namespaces else []) + [
            it for it, granted in zip(named, answers, strict=True) if not granted
        ]

    rights = list(needed)
    found: dict[str, list[Right]] = defaultdict(list)
    answers = await asyncio.gather(*(refused(it, needed[it]) for it in rights))
    for right, namespaces in zip(rights, answers, strict=True):
        for namespace in namespaces:
            found[namespace].append(right)
    return found


async def _allowed(connection: Connection, right: Right, namespace: str) -> bool:
    group, resource, verb = right
    name, _, subresource = resource.partition("/")
    attributes: dict[str, Any] = {
        "group": group, "resource": name, "subresource": subresource, "verb": verb,
        "namespace": namespace,
    }  # fmt: skip
    question = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    answer = await connection.get(PATH, body=msgspec.json.encode(question))
    return msgspec.json.decode(answer, type=_Answer).status.allowed


def told(missing: Mapping[str, Sequence[Right]]) -> str:
    """What is not granted, in words: `list, watch of rayjobs.ray.io in the namespace ml`."""
    parts = []
    for namespace in sorted(missing):
        verbs: dict[str, list[str]] = defaultdict(list)
        for group, resource, verb in missing[namespace]:
            verbs[f"{resource}.{group}" if group else resource].append(verb)
        resources: dict[str, list[str]] = defaultdict(list)
        for resource, of in verbs.items():
            resources[", ".join(of)].append(resource)
        where = f"in the namespace {namespace}" if namespace else "in the whole cluster"
        parts += [f"{of} of {', '.join(its)} {where}" for of, its in resources.items()]
    return f"not granted: {'; '.join(parts)}"
