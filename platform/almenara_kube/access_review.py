"""Which of the required permissions a cluster grants, by its SelfSubjectAccessReview.

https://kubernetes.io/docs/reference/kubernetes-api/authorization-resources/self-subject-access-review-v1/
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from almenara.hookspecs import Finding, Requirement
from almenara_kube.client import ApiClient, connect
from almenara_kube.errors import ApiError, UnreachableError
from almenara_kube.rules import KubernetesRule
from almenara_kube.settings import KubeContext

PATH: Final = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
CONCURRENT: Final = 4
GRANT: Final = "Grant what `almenara kubernetes rbac` prints."
NARROW: Final = " With Roles in some namespaces only, set `namespaces` to them."

Permission = tuple[str, str, str]
"""API group, resource and verb."""


class _Status(msgspec.Struct):
    allowed: bool = False


class _Answer(msgspec.Struct):
    status: _Status = msgspec.field(default_factory=_Status)


async def review(requirements: Sequence[Requirement]) -> Sequence[Finding] | None:
    """A finding for each cluster: whether all rules are granted there, or which are missing.

    None where no requirement is of Kubernetes, as `almenara_review` expects.
    """
    clusters: dict[KubeContext, list[KubernetesRule]] = defaultdict(list)
    for rule in requirements:
        if isinstance(rule, KubernetesRule):
            clusters[rule.kube_context].append(rule)
    if not clusters:
        return None
    return await asyncio.gather(
        *(_review_cluster(context, its_rules) for context, its_rules in clusters.items())
    )


async def _review_cluster(context: KubeContext, rules: Sequence[KubernetesRule]) -> Finding:
    name = next((rule.cluster for rule in rules if rule.cluster), "")
    check = f"Kubernetes {name} permissions" if name else "Kubernetes permissions"
    async with connect(context) as client:
        try:
            needed = await _find_needed(client, rules)
            missing = await _find_missing(client, needed)
        except (UnreachableError, ApiError, msgspec.MsgspecError) as error:
            return Finding(
                check=check, verdict="warning", message=f"permissions are unknown: {error}",
                remedy="Check kubeconfig, context and that the API server runs.",
            )  # fmt: skip
    if missing:
        return Finding(
            check=check,
            verdict="warning",
            message=describe_missing(missing),
            remedy=GRANT + (NARROW if "" in missing else ""),
        )
    count = sum(len(namespaces) for namespaces in needed.values())
    return Finding(check=check, verdict="ok", message=f"all {count} permissions are granted")


async def _find_needed(
    client: ApiClient, rules: Sequence[KubernetesRule]
) -> dict[Permission, set[str]]:
    """The namespaces that each permission is needed in, the empty one for all of them."""
    absent = set[str]()
    for group in sorted({rule.group for rule in rules if rule.optional and rule.group}):
        try:
            await client.get(f"/apis/{group}")
        except ApiError as error:
            if error.status == 404:
                absent.add(group)
    needed: dict[Permission, set[str]] = defaultdict(set)
    for rule in rules:
        if rule.optional and rule.group in absent:
            continue
        for resource in rule.resources:
            for verb in rule.verbs:
                needed[rule.group, resource, verb] |= set(rule.namespaces or ("",))
    return needed


async def _find_missing(
    client: ApiClient, needed: Mapping[Permission, set[str]]
) -> dict[str, list[Permission]]:
    """The permissions that are not granted, by namespace."""
    turns = asyncio.Semaphore(CONCURRENT)

    async def is_allowed(permission: Permission, namespace: str) -> bool:
        async with turns:
            return await _is_allowed(client, permission, namespace)

    async def find_refused(permission: Permission, namespaces: set[str]) -> list[str]:
        # What is allowed everywhere is allowed in each: one request instead of many.
        if await is_allowed(permission, ""):
            return []
        named = sorted(namespaces - {""})
        answers = await asyncio.gather(*(is_allowed(permission, name) for name in named))
        return ([""] if "" in namespaces else []) + [
            name for name, allowed in zip(named, answers, strict=True) if not allowed
        ]

    permissions = list(needed)
    answers = await asyncio.gather(
        *(find_refused(permission, needed[permission]) for permission in permissions)
    )
    missing: dict[str, list[Permission]] = defaultdict(list)
    for permission, namespaces in zip(permissions, answers, strict=True):
        for namespace in namespaces:
            missing[namespace].append(permission)
    return missing


async def _is_allowed(client: ApiClient, permission: Permission, namespace: str) -> bool:
    group, resource, verb = permission
    name, _, subresource = resource.partition("/")
    attributes: dict[str, Any] = {
        "group": group, "resource": name, "subresource": subresource, "verb": verb,
        "namespace": namespace,
    }  # fmt: skip
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    answer = await client.post(PATH, msgspec.json.encode(body))
    return msgspec.json.decode(answer, type=_Answer).status.allowed


def describe_missing(missing: Mapping[str, Sequence[Permission]]) -> str:
    """Missing permissions in words: `list, watch of rayjobs.ray.io in the namespace ml`."""
    parts = []
    for namespace in sorted(missing):
        verbs: dict[str, list[str]] = defaultdict(list)
        for group, resource, verb in missing[namespace]:
            verbs[f"{resource}.{group}" if group else resource].append(verb)
        resources: dict[str, list[str]] = defaultdict(list)
        for resource, its_verbs in verbs.items():
            resources[", ".join(its_verbs)].append(resource)
        where = f"in the namespace {namespace}" if namespace else "in the whole cluster"
        parts += [f"{listed} of {', '.join(names)} {where}" for listed, names in resources.items()]
    return f"not granted: {'; '.join(parts)}"
