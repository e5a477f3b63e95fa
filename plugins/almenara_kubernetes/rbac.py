"""The RBAC rules that a configuration needs, from the same table as the watches."""

from collections.abc import Iterator, Sequence

import msgspec
import yaml

from almenara_kube.kinds import WatchedKind
from almenara_kube.rules import KubernetesRule
from almenara_kubernetes.kinds import METRICS, READABLE
from almenara_kubernetes.settings import ClusterSettings, KubernetesSettings, watched_kinds

READ_LOGS = KubernetesRule(resources=("pods/log",), verbs=("get",))
WATCH_NAMESPACES = KubernetesRule(resources=("namespaces",), verbs=("list", "watch"))


def watch_rule(kind: WatchedKind) -> KubernetesRule:
    """The rule to watch a kind, or to list it where it cannot be watched."""
    return KubernetesRule(
        group=kind.group, resources=(kind.plural,),
        verbs=("list",) if kind.polled else ("list", "watch"), optional=kind.optional,
    )  # fmt: skip


def read_rule(kind: WatchedKind) -> KubernetesRule:
    """The rule to read one object of a kind whole, to display it as YAML."""
    return KubernetesRule(group=kind.group, resources=(kind.plural,), verbs=("get",))


def metrics_kinds(settings: KubernetesSettings, cluster: ClusterSettings) -> list[WatchedKind]:
    """The kinds of metrics.k8s.io to list: those of pods and nodes, where these are watched."""
    watched = {kind.kind for kind in watched_kinds(settings, cluster)}
    return [kind for kind in METRICS if settings.usage and kind.kind in watched]


def needed_rules(settings: KubernetesSettings) -> Sequence[KubernetesRule]:
    """The rules of all clusters."""
    return [
        msgspec.structs.replace(
            rule, cluster=cluster.name, kubeconfig=cluster.kubeconfig, context=cluster.context
        )
        for cluster in settings.clusters
        for rule in _cluster_rules(settings, cluster)
    ]


def _cluster_rules(
    settings: KubernetesSettings, cluster: ClusterSettings
) -> Iterator[KubernetesRule]:
    namespaces = tuple(cluster.namespaces)
    for kind in (*watched_kinds(settings, cluster), *metrics_kinds(settings, cluster)):
        inside = namespaces if kind.namespaced else ()
        yield msgspec.structs.replace(watch_rule(kind), namespaces=inside)
    if settings.logs:
        yield msgspec.structs.replace(READ_LOGS, namespaces=namespaces)
    if settings.yaml:
        watched = {kind.kind for kind in watched_kinds(settings, cluster)}
        for kind in READABLE.values():
            if kind.kind in watched:
                yield msgspec.structs.replace(read_rule(kind), namespaces=namespaces)
    if cluster.namespace_selector:
        # Which namespaces have the labels is unknown beforehand, and changes.
        yield WATCH_NAMESPACES


def describe_missing(kind: WatchedKind, namespace: str) -> str:
    """The missing rule as YAML, with the Role it belongs to, or the setting to do without."""
    role = f"a Role in the namespace {namespace}"
    if not namespace:
        role = "a ClusterRole"
        if kind.namespaced:
            role += ", or set `namespaces` to those with a Role"
    rule = yaml.safe_dump([role_rule(watch_rule(kind))], sort_keys=False)
    return f"# in the rules of {role}\n{rule}"


def role_rule(rule: KubernetesRule) -> dict[str, list[str]]:
    """A rule in the form of a Role."""
    return {
        "apiGroups": [rule.group], "resources": list(rule.resources), "verbs": list(rule.verbs),
    }  # fmt: skip


def dump_inline(rule: KubernetesRule) -> str:
    """A rule as one line of YAML."""
    text: str = yaml.safe_dump(
        role_rule(rule), default_flow_style=True, sort_keys=False, width=10_000
    )
    return text.strip()
