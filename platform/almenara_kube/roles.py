"""The Roles that grant what plugins need of Kubernetes."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import yaml

from almenara_kube.rules import KubernetesRule

API: Final = "rbac.authorization.k8s.io"
NAME: Final = "almenara-kubernetes"
HERE: Final = "in-cluster"
"""What the cluster is called that is reached by no kubeconfig and has no name."""


class _Dumper(yaml.SafeDumper):
    """Lists a step further in, as in most charts."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def written(tree: Any) -> str:
    """A value as YAML."""
    text: str = yaml.dump(tree, Dumper=_Dumper, sort_keys=False)
    return text


def by_cluster(rules: Iterable[KubernetesRule]) -> dict[str, list[KubernetesRule]]:
    """The rules of each cluster: it is the same one for all who reach it in the same way, whatever
    they call it. Its name is the first of those, or the kubeconfig."""
    places: dict[tuple[str, str], list[KubernetesRule]] = defaultdict(list)
    for it in rules:
        places[str(it.kubeconfig or ""), it.context].append(it)
    found: dict[str, list[KubernetesRule]] = defaultdict(list)
    for (path, context), its in places.items():
        named = next((it.cluster for it in its if it.cluster), "")
        found[named or " ".join(part for part in (path, context) if part) or HERE] += its
    return dict(found)


def roles(rules: Iterable[KubernetesRule], account: str = "") -> Sequence[Mapping[str, Any]]:
    """The Roles and the ClusterRole of a cluster, bound to the ServiceAccount `account`
    (`namespace/name`) where one is given."""
    inside: dict[str, list[KubernetesRule]] = defaultdict(list)
    for it in rules:
        for namespace in it.namespaces or ("",):
            inside[namespace].append(it)
    # What is of the whole cluster comes last.
    return [
        made
        for namespace in sorted(inside, key=lambda it: (not it, it))
        for made in _granted(namespace, inside[namespace], account)
    ]


def _combined(rules: Iterable[KubernetesRule]) -> list[Mapping[str, list[str]]]:
    """The rules with those of one group and the same verbs as one."""
    found: dict[tuple[str, tuple[str, ...]], set[str]] = defaultdict(set)
    for it in rules:
        found[it.group, it.verbs] |= set(it.resources)
    return [
        {"apiGroups": [group], "resources": sorted(resources), "verbs": list(verbs)}
        for (group, verbs), resources in sorted(found.items())
    ]


def _granted(
    namespace: str, rules: Sequence[KubernetesRule], account: str
) -> list[Mapping[str, Any]]:
    prefix = "" if namespace else "Cluster"
    metadata = {"name": NAME, **({"namespace": namespace} if namespace else {})}
    found: list[Mapping[str, Any]] = [
        {
            "apiVersion": f"{API}/v1",
            "kind": f"{prefix}Role",
            "metadata": metadata,
            "rules": _combined(rules),
        }
    ]
    if account:
        of, _, name = account.partition("/")
        found.append(
            {
                "apiVersion": f"{API}/v1",
                "kind": f"{prefix}RoleBinding",
                "metadata": dict(metadata),
                "roleRef": {"apiGroup": API, "kind": f"{prefix}Role", "name": NAME},
                "subjects": [{"kind": "ServiceAccount", "namespace": of, "name": name}],
            }
        )
    return found
