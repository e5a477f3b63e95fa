"""The Roles that grant what plugins need of Kubernetes."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import yaml

from almenara_kube.rules import KubernetesRule
from almenara_kube.settings import KubeContext

API: Final = "rbac.authorization.k8s.io"
NAME: Final = "almenara-kubernetes"
IN_CLUSTER: Final = "in-cluster"
"""The name of a cluster that is reached by no kubeconfig and has no name in the configuration."""

Manifest = Mapping[str, Any]


class _Dumper(yaml.SafeDumper):
    """Indents lists by one more step, as most charts do."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def dump_manifest(manifest: Manifest) -> str:
    """A manifest as YAML."""
    text: str = yaml.dump(dict(manifest), Dumper=_Dumper, sort_keys=False)
    return text


def group_by_cluster(rules: Iterable[KubernetesRule]) -> dict[str, list[KubernetesRule]]:
    """The rules of each cluster, by its name.

    Plugins that reach a cluster in the same way mean the same one, whatever they call it: it gets
    the first of their names or, where none of them names it, that of the kubeconfig and context.
    """
    contexts: dict[KubeContext, list[KubernetesRule]] = defaultdict(list)
    for rule in rules:
        contexts[rule.kube_context].append(rule)
    clusters: dict[str, list[KubernetesRule]] = defaultdict(list)
    for context, its_rules in contexts.items():
        name = next((rule.cluster for rule in its_rules if rule.cluster), "")
        reached_by = (str(context.kubeconfig or ""), context.context)
        clusters[name or " ".join(filter(None, reached_by)) or IN_CLUSTER] += its_rules
    return dict(clusters)


def make_roles(rules: Iterable[KubernetesRule], account: str = "") -> Sequence[Manifest]:
    """The Roles and the ClusterRole of one cluster, each with its binding where `account` names a
    ServiceAccount (`namespace/name`)."""
    by_namespace: dict[str, list[KubernetesRule]] = defaultdict(list)
    for rule in rules:
        for namespace in rule.namespaces or ("",):
            by_namespace[namespace].append(rule)
    # The ClusterRole, whose namespace is empty, comes last.
    return [
        manifest
        for namespace in sorted(by_namespace, key=lambda name: (not name, name))
        for manifest in _make_role(namespace, by_namespace[namespace], account)
    ]


def _make_role(namespace: str, rules: Sequence[KubernetesRule], account: str) -> Sequence[Manifest]:
    kind = "Role" if namespace else "ClusterRole"
    metadata = {"name": NAME, **({"namespace": namespace} if namespace else {})}
    role = {
        "apiVersion": f"{API}/v1",
        "kind": kind,
        "metadata": metadata,
        "rules": _merge_rules(rules),
    }
    if not account:
        return [role]
    account_namespace, _, account_name = account.partition("/")
    subject = {"kind": "ServiceAccount", "namespace": account_namespace, "name": account_name}
    binding = {
        "apiVersion": f"{API}/v1",
        "kind": f"{kind}Binding",
        "metadata": dict(metadata),
        "roleRef": {"apiGroup": API, "kind": kind, "name": NAME},
        "subjects": [subject],
    }
    return [role, binding]


def _merge_rules(rules: Iterable[KubernetesRule]) -> list[Mapping[str, list[str]]]:
    """The rules of RBAC: one for all resources of an API group that need the same verbs."""
    resources: dict[tuple[str, tuple[str, ...]], set[str]] = defaultdict(set)
    for rule in rules:
        resources[rule.group, rule.verbs] |= set(rule.resources)
    return [
        {"apiGroups": [group], "resources": sorted(names), "verbs": list(verbs)}
        for (group, verbs), names in sorted(resources.items())
    ]
