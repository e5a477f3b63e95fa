"""The rules that a configuration needs, from the same table as the watches."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import yaml

from almenara_kubernetes.settings import ClusterSettings, KubernetesSettings, watched_kinds
from almenara_kubernetes.watched import MEASURED, READABLE, Watched

API: Final = "rbac.authorization.k8s.io"
ROLE_NAME: Final = "almenara-kubernetes"
Rule = Mapping[str, list[str]]


class _Dumper(yaml.SafeDumper):
    """Lists a step further in, as in most charts."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def written(tree: Any) -> str:
    """A value as YAML."""
    text: str = yaml.dump(tree, Dumper=_Dumper, sort_keys=False)
    return text


def verbs(watched: Watched) -> list[str]:
    """What we do with objects of a kind."""
    return ["list"] if watched.polled else ["list", "watch"]


def rule(watched: Watched) -> Rule:
    """The rule that lets us watch a kind."""
    return {
        "apiGroups": [watched.group], "resources": [watched.plural], "verbs": verbs(watched),
    }  # fmt: skip


def rule_to_read(watched: Watched) -> Rule:
    """The rule that lets us read one object of a kind whole, to show it as YAML."""
    return {"apiGroups": [watched.group], "resources": [watched.plural], "verbs": ["get"]}


def flow(found: Rule) -> str:
    """A rule in one line of YAML."""
    text: str = yaml.safe_dump(dict(found), default_flow_style=True, sort_keys=False, width=10_000)
    return text.strip()


LOGS: Final[Rule] = {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]}
NAMESPACES: Final[Rule] = {
    "apiGroups": [""], "resources": ["namespaces"], "verbs": ["list", "watch"],
}  # fmt: skip


def combined(rules: Iterable[Rule]) -> list[Rule]:
    """The rules with those of one group and the same verbs as one."""
    found: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for it in rules:
        resources = found[it["apiGroups"][0], tuple(it["verbs"])]
        resources += [name for name in it["resources"] if name not in resources]
    return [
        {"apiGroups": [group], "resources": sorted(resources), "verbs": list(allowed)}
        for (group, allowed), resources in sorted(found.items())
    ]


def measured_kinds(settings: KubernetesSettings, cluster: ClusterSettings) -> list[Watched]:
    """What is asked of metrics.k8s.io: of pods and of nodes as far as they are watched."""
    watched = {it.kind for it in watched_kinds(settings, cluster)}
    return [it for it in MEASURED if settings.usage and it.kind in watched]


def roles(
    settings: KubernetesSettings, cluster: ClusterSettings, account: str = ""
) -> Sequence[Mapping[str, Any]]:
    """The Roles or the ClusterRole of a cluster, bound to the ServiceAccount `account`
    (`namespace/name`) where one is given."""
    kinds = [*watched_kinds(settings, cluster), *measured_kinds(settings, cluster)]
    inside = [rule(it) for it in kinds if it.namespaced]
    outside = [rule(it) for it in kinds if not it.namespaced]
    if settings.logs:
        inside.append(LOGS)
    if settings.yaml:
        watched = {it.kind for it in kinds}
        inside += [rule_to_read(it) for it in READABLE.values() if it.kind in watched]
    if cluster.namespace_selector:
        # Which namespaces have the labels is not known before, and changes.
        outside.append(NAMESPACES)
    found: list[Mapping[str, Any]] = []
    if not cluster.namespaces:
        return _granted("", [*inside, *outside], account)
    for namespace in cluster.namespaces:
        found += _granted(namespace, inside, account)
    if outside:
        found += _granted("", outside, account)
    return found


def _granted(namespace: str, rules: Sequence[Rule], account: str) -> list[Mapping[str, Any]]:
    prefix = "" if namespace else "Cluster"
    metadata = {"name": ROLE_NAME, **({"namespace": namespace} if namespace else {})}
    found: list[Mapping[str, Any]] = [
        {
            "apiVersion": f"{API}/v1",
            "kind": f"{prefix}Role",
            "metadata": metadata,
            "rules": combined(rules),
        }
    ]
    if account:
        of, _, name = account.partition("/")
        found.append(
            {
                "apiVersion": f"{API}/v1",
                "kind": f"{prefix}RoleBinding",
                "metadata": dict(metadata),
                "roleRef": {"apiGroup": API, "kind": f"{prefix}Role", "name": ROLE_NAME},
                "subjects": [{"kind": "ServiceAccount", "namespace": of, "name": name}],
            }
        )
    return found


def missing(watched: Watched, namespace: str) -> str:
    """The rule that is missing, as YAML, with where it belongs."""
    role = f"a Role in the namespace {namespace}" if namespace else "a ClusterRole"
    return f"# in the rules of {role}\n" + written([dict(rule(watched))])
