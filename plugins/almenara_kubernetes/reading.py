"""What a cluster says of its objects, made into signals.

Pure and synchronous: who lists and watches hands over what came, in the order in which it came.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from almenara.sdk import now
from almenara.signals import Event, Resource, Sample, Severity, Signal
from almenara_kube.kinds import WatchedKind
from almenara_kube.objects import KubernetesObject, Malformed, Metadata, OwnerReference
from almenara_kubernetes import cluster, cluster_events, workloads
from almenara_kubernetes.objects import (
    Certificate,
    CustomObject,
    EndpointSlice,
    KubernetesEvent,
    NodeMetrics,
    Pod,
    PodMetrics,
    Service,
)
from almenara_kubernetes.owners import Key, Owners, wanted, workload
from almenara_kubernetes.pods import pod_state
from almenara_kubernetes.quantities import moment, quantity
from almenara_kubernetes.transitions import about as attributes_of
from almenara_kubernetes.transitions import happened
from almenara_kubernetes.watched import (
    CERTIFICATES,
    ENDPOINT_SLICES,
    EVENTS,
    PODS,
    REPLICA_SETS,
    SERVICES,
    CustomKind,
)

LABELS: Final = ("app.kubernetes.io/*", "app", "k8s-app", "ray.io/*")
"""Labels that are kept where the configuration names no others."""
SERVICE_OF_SLICE: Final = "kubernetes.io/service-name"
OWNED: Final = "owners"
MALFORMED: Final = "Malformed"
REPORTED: Final = "kubernetes"


class Reading:
    """Turns the objects of one cluster into signals, and remembers what it told.

    `cluster` is its name where there are several, and stands in front of every namespace:
    `<cluster>/<namespace>`. `source` is the source of its events, as CloudEvents means it.
    `labels` are the names of labels that are kept, where a last `*` stands for the rest.

    A resource is told when what is shown of it has changed. Transitions are told of what was
    known before; of an object that is seen for the first time, only those of the last minutes, so
    that a new installation does not begin with the news of last year. Ids are stable: what is told
    again after a restart is the same event.
    """

    def __init__(
        self, cluster: str = "", *, source: str = "", labels: Sequence[str] = LABELS
    ) -> None:
        self.cluster = cluster
        self.source = source or f"{REPORTED}/{cluster}".rstrip("/")
        self._labels = tuple(labels)
        self._told: dict[str, dict[Key, Resource]] = defaultdict(dict)
        """The resources as they were last told, by kind."""
        self._objects: dict[str, dict[Key, str]] = defaultdict(dict)
        """The uid of every object there is, those that are no resources among them, by kind."""
        self._owners = Owners()
        self._services: dict[Key, Service] = {}
        self._slices: dict[Key, tuple[str, Mapping[str, bool]]] = {}
        self._slices_of: dict[Key, set[str]] = defaultdict(set)
        self._certificates: dict[Key, Certificate] = {}
        self._counts: dict[str, int] = {}
        """How often an event of Kubernetes had happened when it was last told, by uid."""
        self._measured: dict[tuple[str, Key], str] = {}
        """The timestamp of the measurement that was last told."""

    def adopt(self, resources: Iterable[Resource]) -> None:
        """Take over what was told before a restart, so that what has gone since is told as gone
        and what has not changed is not told again."""
        for it in resources:
            if it.deleted or not it.kind.startswith("kubernetes."):
                continue
            key = (self._native(it.namespace), it.name)
            self._told[it.kind][key] = it
            self._objects[it.kind][key] = str(it.state.get("uid", ""))

    def namespaces(self) -> set[str]:
        """The namespaces in which objects are known, as their cluster calls them."""
        return {namespace for known in self._objects.values() for namespace, _ in known} - {""}

    def listed(
        self, watched: WatchedKind, namespace: str, objects: Sequence[KubernetesObject]
    ) -> list[Signal]:
        """The signals of a whole list, which replaces what was known of the kind in a namespace;
        "" for all namespaces, and for kinds that have none."""
        signals: list[Signal] = []
        present = {_key(it.metadata) for it in objects}
        known = self._objects[watched.kind]
        for key in [it for it in known if it not in present]:
            if not namespace or key[0] == namespace:
                signals += self._gone(watched, key)
        for it in objects:
            signals += self.changed(watched, it)
        return signals

    def changed(self, watched: WatchedKind, it: KubernetesObject) -> list[Signal]:
        """The signals of an object that is new or different. Raises nothing: an object that cannot
        be read becomes a resource that says so."""
        try:
            return self._changed(watched, it)
        except Exception as error:
            # Whatever an object holds, the next one must be read.
            problem = f"{type(error).__name__}: {error}"[:300]
            return self._malformed(watched, Malformed(metadata=it.metadata, problem=problem))

    def deleted(self, watched: WatchedKind, it: KubernetesObject) -> list[Signal]:
        """The signals of an object that is gone."""
        return self._gone(watched, _key(it.metadata))

    def usage(self, watched: WatchedKind, objects: Sequence[KubernetesObject]) -> list[Signal]:
        """Samples of what pods or nodes use: `cpu` in cores and `memory` in bytes.

        Of what is not known otherwise, and of what was not measured anew, nothing is told.
        """
        known = self._told[watched.kind]
        signals: list[Signal] = []
        for it in objects:
            key = _key(it.metadata)
            if key not in known or not isinstance(it, PodMetrics | NodeMetrics):
                continue
            if self._measured.get((watched.kind, key)) == it.timestamp:
                continue
            self._measured[watched.kind, key] = it.timestamp
            used = (
                [one.usage for one in it.containers] if isinstance(it, PodMetrics) else [it.usage]
            )
            when = moment(it.timestamp) or now()
            for metric, unit in (("cpu", ""), ("memory", "By")):
                amounts = [quantity(one.get(metric)) for one in used]
                if not amounts or None in amounts:
                    continue
                signals.append(
                    Sample(
                        kind=watched.kind, namespace=self._namespace(key[0]), name=key[1],
                        metric=metric, value=float(sum(filter(None, amounts))), unit=unit,
                        time=when,
                    )
                )  # fmt: skip
        return signals

    def tick(self) -> list[Signal]:
        """What changes by the passing of time alone: certificates come near their end. To be
        called once a minute or so."""
        return [
            signal
            for it in list(self._certificates.values())
            for signal in self.changed(CERTIFICATES, it)
        ]

    def _changed(self, watched: WatchedKind, it: KubernetesObject) -> list[Signal]:
        if isinstance(it, Malformed):
            return self._malformed(watched, it)
        key = _key(it.metadata)
        if not key[1]:
            return self._malformed(watched, Malformed(problem="the object has no name"))
        self._objects[watched.kind][key] = it.metadata.uid
        if isinstance(it, KubernetesEvent):
            return self._event(it)
        if isinstance(it, EndpointSlice):
            return self._slice(key, it)
        if isinstance(it, Pod):
            return self._tell(watched, key, *self._pod(key, it))
        signals: list[Signal] = []
        for pod in self._owners.told(watched.api_kind, it.metadata):
            signals += self._owned_anew(pod)
        if isinstance(it, Service):
            self._services[key] = it
        if isinstance(it, Certificate):
            self._certificates[key] = it
        chain = self._owners.chain(it.metadata)
        if watched.kind == REPLICA_SETS.kind and chain:
            # Deployments tell of their own replica sets; the sets are only steps of a chain.
            return signals
        text, severity, state = self._read(watched, key, it)
        if "rollout" in state:
            before = self._told[watched.kind].get(key)
            known = before is not None and before.state.get("uid") == it.metadata.uid
            state[workloads.ROLLOUT_OF] = workloads.rollout_of(
                before.state if before is not None and known else None,
                state,
                it.metadata.generation,
            )
        state[OWNED] = [f"{kind}/{name}" for kind, name, _ in chain]
        state["labels"] = wanted(it.metadata.labels, self._labels)
        return signals + self._tell(watched, key, text, severity, _base(it.metadata), state)

    def _read(self, watched: WatchedKind, key: Key, it: KubernetesObject) -> workloads.Read:
        if isinstance(it, Service):
            return cluster.service(it, self._endpoints(key))
        if isinstance(it, CustomObject) and isinstance(watched, CustomKind):
            return cluster.custom(it, watched)
        read = workloads.READERS.get(watched.kind) or cluster.READERS[watched.kind]
        return read(it)

    def _pod(self, key: Key, it: Pod) -> tuple[str, Severity, dict[str, Any], dict[str, Any]]:
        text, severity, state = pod_state(it, wanted(it.metadata.labels, self._labels))
        chain = self._owners.chain(it.metadata)
        self._owners.pod(key, chain)
        return text, severity, _base(it.metadata), {**state, **_owned(chain, key[1])}

    def _owned_anew(self, key: Key) -> list[Signal]:
        """A pod whose owners have become known."""
        before = self._told[PODS.kind].get(key)
        if before is None:
            return []
        uids, owners = before.state.get("owner_uids"), before.state.get(OWNED)
        if not uids or not owners:
            return []
        nearest, first = uids[0], str(owners[0])
        kind, _, name = first.partition("/")
        reference = OwnerReference(kind=kind, name=name, uid=nearest, controller=True)
        chain = self._owners.chain(Metadata(owner_references=[reference]))
        state = {**before.state, **_owned(chain, key[1])}
        if state == before.state:
            return []
        self._owners.pod(key, chain)
        after = msgspec.structs.replace(before, state=state, time=now())
        self._told[PODS.kind][key] = after
        return [after]

    def _tell(
        self,
        watched: WatchedKind,
        key: Key,
        text: str,
        severity: Severity,
        base: dict[str, Any],
        state: dict[str, Any],
    ) -> list[Signal]:
        kept = {name: it for name, it in state.items() if it is not None and it not in ("", [], {})}
        after = Resource(
            kind=watched.kind, namespace=self._namespace(key[0]), name=key[1], status=text,
            severity=severity, state={**base, **kept}, time=now(),
        )  # fmt: skip
        before = self._told[watched.kind].get(key)
        if before is not None and _same(before, after):
            return []
        self._told[watched.kind][key] = after
        if before is not None and before.state.get("uid") != base.get("uid"):
            # Another object of the same name: nothing of the first happened to this one.
            before = None
        subject = self._subject(watched.api_kind, *key)
        return [
            after,
            *happened(
                before,
                after,
                subject=subject,
                correlation=self._story(after, key[0]) or subject,
                source=self.source,
            ),
        ]

    def _story(self, it: Resource, namespace: str) -> str:
        """What ties the events of a workload and all its parts together."""
        top = it.state.get("workload") or next(reversed(it.state.get(OWNED, ())), "")
        kind, slash, name = str(top).partition("/")
        return self._subject(kind, namespace, name) if slash else ""

    def _subject(self, kind: str, namespace: str, name: str) -> str:
        return "/".join(filter(None, (kind.lower(), self._namespace(namespace), name)))

    def _event(self, it: KubernetesEvent) -> list[Signal]:
        often = cluster_events.count(it)
        if self._counts.get(it.metadata.uid) == often:
            return []
        self._counts[it.metadata.uid] = often
        about = it.regarding
        namespace = about.namespace
        subject = self._subject(about.kind, namespace, about.name) if about.kind else ""
        event = cluster_events.told(
            it,
            subject=subject,
            correlation=self._story_of(about.kind, (namespace, about.name)) or subject,
            source=self.source,
        )
        inside = attributes_of(self._namespace(namespace) if namespace else "")
        return [msgspec.structs.replace(event, attributes=inside)]

    def _story_of(self, kind: str, key: Key) -> str:
        known = self._told.get(f"{REPORTED}.{kind.lower()}", {}).get(key)
        if known is not None:
            return self._story(known, key[0])
        if kind != "ReplicaSet":
            return ""
        uid = self._objects[REPLICA_SETS.kind].get(key)
        above = self._owners.above(uid) if uid else None
        return self._subject(above.kind, key[0], above.name) if above is not None else ""

    def _slice(self, key: Key, it: EndpointSlice) -> list[Signal]:
        name = it.metadata.labels.get(SERVICE_OF_SLICE, "")
        endpoints: dict[str, bool] = {}
        for one in it.endpoints:
            address = one.addresses[0] if one.addresses else ""
            # What is unknown counts as ready: https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/#conditions
            endpoints[one.target_ref.name or address] = one.conditions.ready is not False
        signals = self._slice_gone(key) if key in self._slices else []
        self._slices[key] = (name, endpoints)
        self._slices_of[key[0], name].add(key[1])
        return self._service_anew((key[0], name)) if name else signals

    def _slice_gone(self, key: Key) -> list[Signal]:
        name, _ = self._slices.pop(key, ("", {}))
        of_service = (key[0], name)
        self._slices_of[of_service].discard(key[1])
        if not self._slices_of[of_service]:
            del self._slices_of[of_service]
        return []

    def _endpoints(self, key: Key) -> dict[str, bool]:
        found: dict[str, bool] = {}
        for name in sorted(self._slices_of.get(key, ())):
            for endpoint, ready in self._slices[key[0], name][1].items():
                # A pod with addresses of two families is in two slices.
                found[endpoint] = found.get(endpoint, False) or ready
        return found

    def _service_anew(self, key: Key) -> list[Signal]:
        it = self._services.get(key)
        return self._changed(SERVICES, it) if it is not None else []

    def _gone(self, watched: WatchedKind, key: Key) -> list[Signal]:
        uid = self._objects[watched.kind].pop(key, "")
        self._owners.forget(uid)
        signals: list[Signal] = []
        if watched.kind == ENDPOINT_SLICES.kind and key in self._slices:
            name = self._slices[key][0]
            self._slice_gone(key)
            signals += self._service_anew((key[0], name))
        self._measured.pop((watched.kind, key), None)
        match watched.kind:
            case EVENTS.kind:
                self._counts.pop(uid, None)
            case SERVICES.kind:
                self._services.pop(key, None)
            case CERTIFICATES.kind:
                self._certificates.pop(key, None)
        before = self._told[watched.kind].pop(key, None)
        if before is None:
            return signals
        if watched.kind == PODS.kind:
            self._owners.forget_pod(key, before.state.get("owner_uids", ()))
        return [*signals, msgspec.structs.replace(before, deleted=True, time=now())]

    def _malformed(self, watched: WatchedKind, it: Malformed) -> list[Signal]:
        """What is told of an object that cannot be read: that it is there, and what is wrong."""
        key = _key(it.metadata)
        subject = self._subject(watched.api_kind, *key)
        event = Event(
            id=f"{it.metadata.uid or subject}/malformed/{it.problem}",
            source=self.source, type=f"{REPORTED}.malformed", subject=subject, time=now(),
            severity=Severity.WARN, correlation=subject,
            attributes=attributes_of(self._namespace(key[0]) if key[0] else ""),
            data={"reason": it.problem, "kind": watched.api_kind, "plural": watched.plural},
            problem=f"this {watched.api_kind} cannot be read: {it.problem}",
        )  # fmt: skip
        if not key[1]:
            return [event]
        self._objects[watched.kind][key] = it.metadata.uid
        after = Resource(
            kind=watched.kind, namespace=self._namespace(key[0]), name=key[1], status=MALFORMED,
            severity=Severity.ERROR, state={"uid": it.metadata.uid, "problem": it.problem},
            time=now(),
        )  # fmt: skip
        before = self._told[watched.kind].get(key)
        if before is not None and _same(before, after):
            return []
        self._told[watched.kind][key] = after
        return [after, event]

    def _namespace(self, namespace: str) -> str:
        return "/".join(filter(None, (self.cluster, namespace)))

    def _native(self, namespace: str) -> str:
        if not self.cluster:
            return namespace
        return namespace.removeprefix(self.cluster).removeprefix("/")


def _key(metadata: Metadata) -> Key:
    return metadata.namespace, metadata.name


def _base(metadata: Metadata) -> dict[str, Any]:
    found = {"uid": metadata.uid, "created": moment(metadata.creation_timestamp)}
    return {name: it for name, it in found.items() if it}


def _owned(chain: Sequence[tuple[str, str, str]], name: str) -> dict[str, Any]:
    found: dict[str, Any] = {"workload": workload(chain, name)}
    if chain:
        found[OWNED] = [f"{kind}/{owner}" for kind, owner, _ in chain]
        found["owner_uids"] = [uid for _, _, uid in chain if uid]
    return found


def _same(before: Resource, after: Resource) -> bool:
    return (
        before.state == after.state
        and before.status == after.status
        and before.severity == after.severity
    )
