"""The rules that a configuration needs, from the same table as the watches."""

from collections.abc import Iterator, Sequence

import msgspec
import yaml

from almenara_kube.kinds import WatchedKind
from almenara_kube.rules import KubernetesRule
from almenara_kubernetes.settings import ClusterSettings, KubernetesSettings, watched_kinds
from almenara_kubernetes.watched import MEASURED, READABLE


def rule(watched: WatchedKind) -> KubernetesRule:
    """The rule that lets us watch a kind, or list it where it cannot be watched."""
    return KubernetesRule(
        group=watched.group, resources=(watched.plural,),
        verbs=("list",) if watched.polled else ("list", "watch"), optional=watched.optional,
    )  # fmt: skip


def rule_to_read(watched: WatchedKind) -> KubernetesRule:
    """The rule that lets us read one object of a kind whole, to show it as YAML."""
    return KubernetesRule(group=watched.group, resources=(watched.plural,), verbs=("get",))


LOGS = KubernetesRule(resources=("pods/log",), verbs=("get",))
NAMESPACES = KubernetesRule(resources=("namespaces",), verbs=("list", "watch"))


def measured_kinds(settings: KubernetesSettings, cluster: ClusterSettings) -> list[WatchedKind]:
    """What is asked of metrics.k8s.io: of pods and of nodes as far as they are watched."""
    watched = {it.kind for it in watched_kinds(settings, cluster)}
    return [it for it in MEASURED if settings.usage and it.kind in watched]


def rules(settings: KubernetesSettings) -> Sequence[KubernetesRule]:
    """The rules of all clusters."""
    return [
        msgspec.structs.replace(
            it, cluster=cluster.name, kubeconfig=cluster.kubeconfig, context=cluster.context
        )
        for cluster in settings.clusters
        for it in _rules(settings, cluster)
    ]


def _rules(settings: KubernetesSettings, cluster: ClusterSettings) -> Iterator[KubernetesRule]:
    inside = tuple(cluster.namespaces)
    for it in (*watched_kinds(settings, cluster), *measured_kinds(settings, cluster)):
        yield msgspec.structs.replace(rule(it), namespaces=inside if it.namespaced else ())
    if settings.logs:
        yield msgspec.structs.replace(LOGS, namespaces=inside)
    if settings.yaml:
        watched = {it.kind for it in watched_kinds(settings, cluster)}
        for it in READABLE.values():
            if it.kind in watched:
                yield msgspec.structs.replace(rule_to_read(it), namespaces=inside)
    if cluster.namespace_selector:
        # Which namespaces have the labels is not known before, and changes.
        yield NAMESPACES


def missing(watched: WatchedKind, namespace: str) -> str:
    """The rule that is missing, as YAML, with where it belongs."""
    role = f"a Role in the namespace {namespace}" if namespace else "a ClusterRole"
    return f"# in the rules of {role}\n" + yaml.safe_dump([tree(rule(watched))], sort_keys=False)


def tree(it: KubernetesRule) -> dict[str, list[str]]:
    """A rule as a Role has it."""
    return {
        "apiGroups": [it.group], "resources": list(it.resources), "verbs": list(it.verbs),
    }  # fmt: skip


def flow(it: KubernetesRule) -> str:
    """A rule in one line of YAML."""
    text: str = yaml.safe_dump(tree(it), default_flow_style=True, sort_keys=False, width=10_000)
    return text.strip()
