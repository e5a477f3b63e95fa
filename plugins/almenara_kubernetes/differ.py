"""The objects of a cluster as signals: what differs from what was published before.

Pure and synchronous: the source passes in what it lists and watches, in the order of its arrival.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from almenara.sdk import Snapshots, describe_error, now
from almenara.signals import Event, Resource, Sample, Severity, Signal
from almenara_kube.kinds import WatchedKind
from almenara_kube.objects import KubernetesObject, Malformed, Metadata, OwnerReference
from almenara_kubernetes.cluster_names import ClusterNames
from almenara_kubernetes.endpoints import ServiceIndex
from almenara_kubernetes.kinds import (
    CERTIFICATES,
    ENDPOINT_SLICES,
    EVENTS,
    PODS,
    REPLICA_SETS,
    SERVICES,
    CustomKind,
)
from almenara_kubernetes.mapping import Mapped, workloads
from almenara_kubernetes.mapping.autoscalers import map_autoscaler
from almenara_kubernetes.mapping.certificates import map_certificate
from almenara_kubernetes.mapping.custom import map_custom
from almenara_kubernetes.mapping.events import event_count, map_event
from almenara_kubernetes.mapping.network import map_ingress, map_service
from almenara_kubernetes.mapping.nodes import map_node
from almenara_kubernetes.mapping.owners import (
    Chain,
    Key,
    OwnerIndex,
    qualified_kind,
    select_labels,
    top_workload,
)
from almenara_kubernetes.mapping.pods import map_pod
from almenara_kubernetes.mapping.storage import map_claim
from almenara_kubernetes.mapping.transitions import make_events, scope_attributes
from almenara_kubernetes.models import (
    Certificate,
    CustomObject,
    EndpointSlice,
    KubernetesEvent,
    Pod,
    Service,
)
from almenara_kubernetes.quantities import parse_timestamp
from almenara_kubernetes.usage import UsageSampler

LABELS: Final = ("app.kubernetes.io/*", "app", "k8s-app", "ray.io/*")
"""The labels that resources have."""
OWNERS: Final = "owners"
MALFORMED: Final = "Malformed"
SOURCE: Final = "kubernetes"
MAPPERS: Final[Mapping[str, Callable[[Any], Mapped]]] = {
    **workloads.MAPPERS,
    "kubernetes.node": map_node,
    "kubernetes.ingress": map_ingress,
    "kubernetes.persistentvolumeclaim": map_claim,
    "kubernetes.certificate": map_certificate,
    "kubernetes.horizontalpodautoscaler": map_autoscaler,
}
"""By the kind of the resource, where the object alone is enough."""


class ClusterDiffer:
    """Turns the objects of one cluster into signals, and remembers what was published.

    `cluster` is its name where there are several, and stands in front of every namespace:
    `<cluster>/<namespace>`. `source` is the source of its events, as CloudEvents defines it.
    `labels` are the names of labels to keep, where a `*` at the end matches the rest.

    A resource is published when it differs from before. Transitions are reported between what was
    known and what is new; of an object that is observed for the first time, only those of the last
    minutes, so that a new installation does not start with the events of last year. Ids are stable:
    what is reported again after a restart is the same event.
    """

    def __init__(
        self, cluster: str = "", *, source: str = "", labels: Sequence[str] = LABELS
    ) -> None:
        self.cluster, self._names = cluster, ClusterNames(cluster)
        self.source = source or f"{SOURCE}/{cluster}".rstrip("/")
        self._labels = tuple(labels)
        self._published = Snapshots()
        self._uids: dict[str, dict[Key, str]] = defaultdict(dict)
        """The uid of every known object, including those that are not resources, by kind."""
        self._owners = OwnerIndex()
        self._services = ServiceIndex()
        self._certificates: dict[Key, Certificate] = {}
        self._event_counts: dict[str, int] = {}
        """The last published count of an event of Kubernetes, by uid."""
        self._usage = UsageSampler()

    def restore(self, resources: Iterable[Resource]) -> None:
        """Add what an earlier run published, so that what was deleted since is published as
        deleted, and what has not changed is not published again."""
        for resource in resources:
            if resource.deleted or not resource.kind.startswith("kubernetes."):
                continue
            self._published.load([resource])
            key = (self._names.native_namespace(resource.namespace), resource.name)
            self._uids[resource.kind][key] = str(resource.state.get("uid", ""))

    def namespaces(self) -> set[str]:
        """The namespaces with known objects, by their names in the cluster."""
        return {namespace for known in self._uids.values() for namespace, _ in known} - {""}

    def replace_all(
        self,
        kind: WatchedKind,
        namespace: str,
        objects: Sequence[KubernetesObject],
        *,
        is_watched: bool = True,
    ) -> list[Signal]:
        """The signals of a complete list of a kind in a namespace, which is empty for all of them
        and for kinds without namespaces. `is_watched` is as in `Listing`."""
        signals: list[Signal] = []
        listed = {_key(obj.metadata) for obj in objects}
        for key in [key for key in self._uids[kind.kind] if key not in listed]:
            if not namespace or key[0] == namespace:
                signals += self._remove(kind, key)
        for obj in objects:
            signals += self._apply(kind, obj)
        if kind.kind == ENDPOINT_SLICES.kind:
            self._services.set_listed(namespace, is_watched)
        return signals + self._update_services()

    def stop_watching(self, kind: WatchedKind, namespace: str) -> list[Signal]:
        """The signals when a kind cannot be watched any more: what depends on it is unknown."""
        if kind.kind == ENDPOINT_SLICES.kind:
            self._services.set_listed(namespace, False)
        return self._update_services()

    def update(self, kind: WatchedKind, obj: KubernetesObject) -> list[Signal]:
        """The signals of an object that is new or has changed. Raises nothing: an object that
        cannot be read becomes a resource that says so."""
        return self._apply(kind, obj) + self._update_services()

    def _apply(self, kind: WatchedKind, obj: KubernetesObject) -> list[Signal]:
        try:
            return self._update(kind, obj)
        except Exception as error:
            # Whatever an object contains, the next one must be read.
            problem = f"{type(error).__name__}: {describe_error(error, 300)}"
            return self._reject(kind, Malformed(metadata=obj.metadata, problem=problem))

    def remove(self, kind: WatchedKind, obj: KubernetesObject) -> list[Signal]:
        """The signals of an object that is deleted."""
        return self._remove(kind, _key(obj.metadata)) + self._update_services()

    def usage(self, kind: WatchedKind, objects: Sequence[KubernetesObject]) -> list[Sample]:
        """Samples of what known pods or nodes use."""
        samples = self._usage.sample(kind, objects, self._uids[kind.kind], self.cluster)
        return [*samples, *self._count_restarts(samples)]

    def _count_restarts(self, samples: Sequence[Sample]) -> Iterator[Sample]:
        """Samples of the restarts of those pods that have any, whenever their usage is measured."""
        for sample in samples:
            pod = self._published.get(sample.key) if sample.metric == "cpu" else None
            if pod is not None and (restarts := pod.state.get("restarts")):
                yield msgspec.structs.replace(
                    sample, metric="restarts", value=float(restarts), unit=""
                )

    def pods(self) -> list[Resource]:
        """The known pods."""
        keys = (self._names.resource_key(PODS.kind, key) for key in self._uids[PODS.kind])
        return [pod for key in keys if (pod := self._published.get(key)) is not None]

    def tick(self) -> list[Signal]:
        """What changes with time alone: certificates come near their end."""
        return [
            signal
            for certificate in list(self._certificates.values())
            for signal in self.update(CERTIFICATES, certificate)
        ]

    # Objects

    def _update(self, kind: WatchedKind, obj: KubernetesObject) -> list[Signal]:
        if isinstance(obj, Malformed):
            return self._reject(kind, obj)
        key = _key(obj.metadata)
        if not key[1]:
            return self._reject(kind, Malformed(problem="the object has no name"))
        self._uids[kind.kind][key] = obj.metadata.uid
        if isinstance(obj, KubernetesEvent):
            return self._update_event(obj)
        if isinstance(obj, EndpointSlice):
            self._services.update_slice(key, obj)
            return []
        if isinstance(obj, Pod):
            return self._update_pod(kind, key, obj)
        signals: list[Signal] = []
        for pod in self._owners.add(_kind_name(kind), obj.metadata):
            signals += self._update_owners(pod)
        if isinstance(obj, Service):
            self._services.add(key, obj)
        if isinstance(obj, Certificate):
            self._certificates[key] = obj
        chain = self._owners.chain(obj.metadata)
        if kind.kind == REPLICA_SETS.kind and chain:
            # The replica sets of a Deployment are only links of a chain.
            return signals
        text, severity, state = self._map(kind, key, obj)
        if "rollout" in state:
            state[workloads.ROLLOUT_OF] = self._rollout_generation(kind, key, obj, state)
        state[OWNERS] = [f"{owner_kind}/{name}" for owner_kind, name, _ in chain]
        state["labels"] = select_labels(obj.metadata.labels, self._labels)
        mapped = (text, severity, {**_base_state(obj.metadata), **state})
        return signals + self._publish(kind, key, mapped)

    def _map(self, kind: WatchedKind, key: Key, obj: KubernetesObject) -> Mapped:
        if isinstance(obj, Service):
            return map_service(obj, self._services.endpoints(key))
        if isinstance(obj, CustomObject) and isinstance(kind, CustomKind):
            return map_custom(obj, kind)
        return MAPPERS[kind.kind](obj)

    def _rollout_generation(
        self, kind: WatchedKind, key: Key, obj: KubernetesObject, state: Mapping[str, Any]
    ) -> int | None:
        before = self._published.get(self._names.resource_key(kind.kind, key))
        is_same = before is not None and before.state.get("uid") == obj.metadata.uid
        return workloads.rollout_generation(
            before.state if before is not None and is_same else None,
            state,
            obj.metadata.generation,
        )

    def _update_pod(self, kind: WatchedKind, key: Key, pod: Pod) -> list[Signal]:
        text, severity, state = map_pod(pod, select_labels(pod.metadata.labels, self._labels))
        chain = self._owners.chain(pod.metadata)
        self._owners.add_pod(key, chain)
        state = {**_base_state(pod.metadata), **state, **_owner_state(chain, key[1])}
        # The namespace of the pod's node.
        state["cluster"] = self.cluster
        return self._publish(kind, key, (text, severity, state))

    def _update_owners(self, key: Key) -> list[Signal]:
        """The signals of a pod whose owners have become known."""
        before = self._published.get(self._names.resource_key(PODS.kind, key))
        if before is None:
            return []
        uids, owners = before.state.get("owner_uids"), before.state.get(OWNERS)
        if not uids or not owners:
            return []
        kind, _, name = str(owners[0]).partition("/")
        reference = OwnerReference(kind=kind, name=name, uid=uids[0], controller=True)
        chain = self._owners.chain(Metadata(owner_references=[reference]))
        state = {**before.state, **_owner_state(chain, key[1])}
        if state == before.state:
            return []
        self._owners.add_pod(key, chain)
        return [*self._published.update(msgspec.structs.replace(before, state=state, time=now()))]

    def _update_services(self) -> list[Signal]:
        """The signals of services whose endpoints may have changed."""
        services = self._services.take_changed()
        return [signal for service in services for signal in self._apply(SERVICES, service)]

    def _update_event(self, event: KubernetesEvent) -> list[Signal]:
        count = event_count(event)
        if self._event_counts.get(event.metadata.uid) == count:
            return []
        self._event_counts[event.metadata.uid] = count
        regarding = event.regarding
        kind = qualified_kind(regarding.kind, regarding.api_version)
        namespace = regarding.namespace
        subject = self._names.subject(kind, namespace, regarding.name) if kind else ""
        mapped = map_event(
            event,
            subject=subject,
            correlation=self._correlation_of(kind, (namespace, regarding.name)) or subject,
            source=self.source,
        )
        attributes = scope_attributes(self._names.namespace(namespace) if namespace else "")
        return [msgspec.structs.replace(mapped, attributes=attributes)]

    def _remove(self, kind: WatchedKind, key: Key) -> list[Signal]:
        uid = self._uids[kind.kind].pop(key, "")
        self._owners.remove(uid)
        self._usage.forget(kind.kind, key)
        signals: list[Signal] = []
        match kind.kind:
            case ENDPOINT_SLICES.kind:
                self._services.remove_slice(key)
            case EVENTS.kind:
                self._event_counts.pop(uid, None)
            case SERVICES.kind:
                self._services.remove(key)
            case CERTIFICATES.kind:
                self._certificates.pop(key, None)
        resource_key = self._names.resource_key(kind.kind, key)
        before = self._published.get(resource_key)
        if before is not None and kind.kind == PODS.kind:
            self._owners.remove_pod(key, before.state.get("owner_uids", ()))
        return [*signals, *self._published.remove(resource_key)]

    def _reject(self, kind: WatchedKind, obj: Malformed) -> list[Signal]:
        """The signals of an object that cannot be read: that it exists, and its problem."""
        key = _key(obj.metadata)
        subject = self._names.subject(_kind_name(kind), *key)
        namespace = self._names.namespace(key[0])
        event = _malformed_event(kind, obj, subject, namespace if key[0] else "", self.source)
        if not key[1]:
            return [event]
        self._uids[kind.kind][key] = obj.metadata.uid
        after = Resource(
            kind=kind.kind, namespace=namespace, name=key[1], status=MALFORMED,
            severity=Severity.ERROR, state={"uid": obj.metadata.uid, "problem": obj.problem},
            time=now(),
        )  # fmt: skip
        signals = self._published.update(after)
        return [*signals, event] if signals else []

    # Signals

    def _publish(self, kind: WatchedKind, key: Key, mapped: Mapped) -> list[Signal]:
        """The resource and its transitions, where it differs from what was published."""
        text, severity, state = mapped
        after = Resource(
            kind=kind.kind, namespace=self._names.namespace(key[0]), name=key[1], status=text,
            severity=severity, time=now(),
            state={
                name: value
                for name, value in state.items()
                if value is not None and value not in ("", [], {})
            },
        )  # fmt: skip
        before = self._published.get(after.key)
        signals = self._published.update(after)
        if not signals:
            return []
        if before is not None and before.state.get("uid", "") != (state.get("uid") or ""):
            # Another object of the same name: the first one's transitions are not this one's.
            before = None
        subject = self._names.subject(_kind_name(kind), *key)
        events = make_events(
            before,
            after,
            subject=subject,
            correlation=self._correlation(after, key[0]) or subject,
            source=self.source,
        )
        return [*signals, *events]

    def _correlation(self, resource: Resource, namespace: str) -> str:
        """What ties the events of a workload and all its parts together: the workload's subject."""
        top = resource.state.get("workload") or next(reversed(resource.state.get(OWNERS, ())), "")
        kind, slash, name = str(top).partition("/")
        return self._names.subject(kind, namespace, name) if slash else ""

    def _correlation_of(self, kind: str, key: Key) -> str:
        known = self._published.get(self._names.resource_key(f"{SOURCE}.{kind.lower()}", key))
        if known is not None:
            return self._correlation(known, key[0])
        uid = self._uids[REPLICA_SETS.kind].get(key) if kind == "ReplicaSet" else None
        owner = self._owners.owner_of(uid) if uid else None
        if owner is None:
            return ""
        owner_kind = qualified_kind(owner.kind, owner.api_version)
        return self._names.subject(owner_kind, key[0], owner.name)


def _malformed_event(
    kind: WatchedKind, obj: Malformed, subject: str, namespace: str, source: str
) -> Event:
    return Event(
        id=f"{obj.metadata.uid or subject}/malformed/{obj.problem}", source=source,
        type=f"{SOURCE}.malformed", subject=subject, time=now(), severity=Severity.WARN,
        correlation=subject, attributes=scope_attributes(namespace),
        data={"reason": obj.problem, "kind": kind.api_kind, "plural": kind.plural},
        problem=f"this {kind.api_kind} cannot be read: {obj.problem}",
    )  # fmt: skip


def _kind_name(kind: WatchedKind) -> str:
    return qualified_kind(kind.api_kind, kind.api_version)


def _key(metadata: Metadata) -> Key:
    return metadata.namespace, metadata.name


def _base_state(metadata: Metadata) -> dict[str, Any]:
    return {"uid": metadata.uid, "created": parse_timestamp(metadata.creation_timestamp)}


def _owner_state(chain: Chain, name: str) -> dict[str, Any]:
    state: dict[str, Any] = {"workload": top_workload(chain, name)}
    if chain:
        state[OWNERS] = [f"{kind}/{owner}" for kind, owner, _ in chain]
        state["owner_uids"] = [uid for _, _, uid in chain if uid]
    return state
