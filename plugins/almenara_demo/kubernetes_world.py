"""A simulated Kubernetes cluster that runs an AI fleet, and the incidents in it."""

from collections.abc import Callable, Iterator, Sequence

import msgspec

from almenara.units import SECOND
from almenara_demo.kubernetes_builder import ClusterBuilder
from almenara_demo.kubernetes_fleet import Workload
from almenara_demo.kubernetes_kinds import (
    CRON_JOBS,
    DEPLOYMENTS,
    EVENTS,
    JOBS,
    NODES,
    PODS,
    Change,
    Tree,
)
from almenara_demo.kubernetes_objects import is_ready, owner_reference

Steps = Iterator[float]
"""An incident that takes a while: it yields the seconds until its next step."""


class World(ClusterBuilder):
    """A cluster in which incidents happen, decided by `seed`."""

    def __init__(self, pods: int, clock: Callable[[], int], seed: int = 0) -> None:
        super().__init__(pods, clock, seed)
        self._running: list[tuple[float, Steps]] = []
        self._busy: set[str] = set()

    def happens(self, kind: str, about: Tree, reason: str, note: str, *, bad: bool, count: int = 1, name: str = "") -> None:  # fmt: skip
        """An event of Kubernetes about an object, or the next of a series named `name`."""
        metadata = about["metadata"]
        namespace = metadata.get("namespace", "")
        called = name or f"{metadata['name']}.{next(self._numbers):x}"
        old = self.objects.get(EVENTS.kind, {}).get((namespace or "default", called))
        first = old["eventTime"] if old is not None else self.stamp()
        self.put(EVENTS, {
            "metadata": {"namespace": namespace or "default", "name": called, "uid": f"{self.born}/{namespace}/{called}"},
            "eventTime": first, "reason": reason, "note": note, "type": "Warning" if bad else "Normal",
            "series": {"count": count, "lastObservedTime": self.stamp()} if count > 1 else None,
            "reportingController": "kubelet", "regarding": {"kind": kind, "namespace": namespace, "name": metadata["name"], "uid": metadata["uid"]},
        })  # fmt: skip

    def step(self) -> list[Change]:
        """What has changed since the last step; what goes on goes on, and new things begin."""
        now = self.clock() / SECOND
        due = [entry for entry in self._running if entry[0] <= now]
        self._running = [entry for entry in self._running if entry[0] > now]
        for _, steps in due:
            self._advance(steps)
        changes, self.changes = self.changes, []
        return changes

    def _advance(self, steps: Steps) -> None:
        wait = next(steps, None)
        if wait is not None:
            self._running.append((self.clock() / SECOND + wait, steps))

    def begin(self, steps: Steps) -> None:
        """Let something happen."""
        self._advance(steps)

    def incident(self) -> None:
        """Let something begin that happens in clusters."""
        choice = self.random.random()
        workload = self._idle("Deployment")
        if workload is None:
            return
        if choice < 0.3:
            self.begin(self.crash_loop(workload))
        elif choice < 0.5:
            self.begin(self.out_of_memory(workload))
        elif choice < 0.8:
            self.begin(self.rollout(workload, fails=self.random.random() < 0.3))
        elif choice < 0.9:
            self.begin(self.job())
        else:
            self.begin(self.node_lost())

    def _idle(self, kind: str) -> Workload | None:
        free = [workload for name, workload in self.workloads.items() if workload.kind == kind and name not in self._busy and workload.replicas > 1]  # fmt: skip
        return self.random.choice(free) if free else None

    def crash_loop(self, workload: Workload) -> Steps:
        """A pod that ends again and again, and recovers after some minutes."""
        busy = f"{workload.namespace}/{workload.name}"
        self._busy.add(busy)
        tree = self.random.choice(self.pods_of(workload))
        for turn in range(1, self.random.randint(4, 7)):
            self.ends(tree, "Error", 1)
            self.put(PODS, tree)
            self.count(workload)
            yield 3
            self.waits(
                tree, "CrashLoopBackOff", f"back-off {10 * 2**turn}s restarting failed container"
            )
            self.put(PODS, tree)
            self.happens("Pod", tree, "BackOff", "Back-off restarting failed container", bad=True,
                         count=turn * 3, name=f"{tree['metadata']['name']}.backoff")  # fmt: skip
            yield 8 * turn
            if (workload.namespace, tree["metadata"]["name"]) not in self.objects[PODS.kind]:
                break
        else:
            self.runs(tree)
            self.put(PODS, tree)
        self.count(workload)
        self._busy.discard(busy)

    def out_of_memory(self, workload: Workload) -> Steps:
        """A container that exceeds its memory limit."""
        tree = self.random.choice(self.pods_of(workload))
        self.ends(tree, "OOMKilled", 137)
        self.put(PODS, tree)
        self.count(workload)
        yield 2
        self.waits(tree, "CrashLoopBackOff", "back-off 10s restarting failed container")
        self.put(PODS, tree)
        yield 6
        if (workload.namespace, tree["metadata"]["name"]) in self.objects[PODS.kind]:
            self.runs(tree)
            self.put(PODS, tree)
            self.happens("Pod", tree, "Started", "Started container", bad=False)
            self.count(workload)

    def rollout(self, workload: Workload, *, fails: bool) -> Steps:
        """A new version, pod by pod; one that cannot be pulled stalls and is taken back."""
        busy = f"{workload.namespace}/{workload.name}"
        self._busy.add(busy)
        above = self.objects[DEPLOYMENTS.kind][workload.namespace, workload.name]
        name, _, tag = workload.image.rpartition(":")
        start, _, last = tag.rpartition(".")
        fresh = f"{name}:{start}.{int(last) + 1}" if last.isdigit() else f"{workload.image}-1"
        new = msgspec.structs.replace(workload, image=fresh)
        annotations = above["metadata"]["annotations"]
        revision = int(annotations["deployment.kubernetes.io/revision"]) + 1
        above["metadata"]["generation"] += 1
        annotations["deployment.kubernetes.io/revision"] = str(revision)
        above["spec"]["template"]["spec"] = self._spec(new)
        owner = owner_reference("ReplicaSet", self._replica_set(new, above, None))
        self.count(workload, updated=0, reason="ReplicaSetUpdated")
        self.happens("Deployment", above, "ScalingReplicaSet", f"Scaled up replica set {owner['name']} from 0 to 1", bad=False)  # fmt: skip
        old = self.pods_of(workload)
        for done, replaced in enumerate(old):
            tree = self.put(PODS, self._pod(new, f"{owner['name']}-{self._suffix()}", owner, self._node_for(new), None))  # fmt: skip
            self.count(workload, updated=done + 1, reason="ReplicaSetUpdated")
            yield 3
            if fails:
                for turn in range(1, 6):
                    self.waits(tree, "ImagePullBackOff" if turn % 2 else "ErrImagePull", f'Back-off pulling image "{fresh}"')  # fmt: skip
                    self.put(PODS, tree)
                    self.happens("Pod", tree, "Failed", f'Failed to pull image "{fresh}": not found', bad=True,
                                 count=turn * 2, name=f"{tree['metadata']['name']}.pull")  # fmt: skip
                    yield 9
                self.count(workload, updated=1, reason="ProgressDeadlineExceeded", message=f'ReplicaSet "{owner["name"]}" has timed out progressing.')  # fmt: skip
                yield 45
                self.remove(PODS, tree)
                annotations["deployment.kubernetes.io/revision"] = str(revision + 1)
                above["spec"]["template"]["spec"] = self._spec(workload)
                above["metadata"]["generation"] += 1
                self.count(workload)
                break
            self.runs(tree)
            self.put(PODS, tree)
            self.happens("Pod", tree, "Started", "Started container", bad=False)
            yield 2
            replaced["metadata"]["deletionTimestamp"] = self.stamp()
            self.put(PODS, replaced)
            yield 3
            self.remove(PODS, replaced)
            self.count(workload, updated=done + 1, reason="ReplicaSetUpdated")
        else:
            self.workloads[busy] = new
            self.count(new)
        self._busy.discard(busy)

    def job(self) -> Steps:
        """A run of the nightly job, which sometimes fails."""
        cron = self.objects[CRON_JOBS.kind]["context", "graph-backup"]
        name = f"graph-backup-{self.clock() // (60 * SECOND)}"
        if ("context", name) in self.objects.get(JOBS.kind, {}):
            return
        workload = Workload(
            "context", "graph-backup", "Job", 1, "example/graph-backup:1.3", 0.5, 0.5, 0, "context"
        )
        tree = self.put(JOBS, {
            "metadata": self.metadata("context", name, None, ownerReferences=[owner_reference("CronJob", cron)]),
            "spec": {"completions": 1, "template": {"spec": self._spec(workload)}}, "status": {"active": 1, "startTime": self.stamp()},
        })  # fmt: skip
        cron["status"] = {"active": [{"name": name}], "lastScheduleTime": self.stamp()}
        self.put(CRON_JOBS, cron)
        pod = self.put(PODS, self._pod(workload, f"{name}-{self._suffix()}", owner_reference("Job", tree), self._node_for(workload), None))  # fmt: skip
        yield 4
        self.runs(pod)
        self.put(PODS, pod)
        yield 20
        good = self.random.random() < 0.8
        self.ends(pod, "Completed" if good else "Error", 0 if good else 3)
        pod["status"]["phase"] = "Succeeded" if good else "Failed"
        self.put(PODS, pod)
        tree["status"] = {
            "succeeded": int(good), "failed": int(not good), "completionTime": self.stamp() if good else "",
            "conditions": [{"type": "Complete" if good else "Failed", "status": "True",
                            "message": "" if good else "Job has reached the specified backoff limit", "lastTransitionTime": self.stamp()}],
        }  # fmt: skip
        self.put(JOBS, tree)
        cron["status"]["active"] = []
        self.put(CRON_JOBS, cron)
        yield 240
        self.remove(PODS, pod)
        self.remove(JOBS, tree)

    def node_lost(self) -> Steps:
        """A node whose kubelet stops reporting for a while."""
        name = self.random.choice([pod for pod in self.nodes if pod.startswith("worker")])
        tree = self.objects[NODES.kind]["", name]
        if f"node/{name}" in self._busy:
            return
        self._busy.add(f"node/{name}")
        pods = [pod for pod in self.objects[PODS.kind].values() if pod["spec"]["nodeName"] == name and pod["status"]["phase"] == "Running"]  # fmt: skip
        ready = next(pod for pod in tree["status"]["conditions"] if pod["type"] == "Ready")
        ready |= {"status": "Unknown", "reason": "NodeStatusUnknown", "message": "Kubelet stopped posting node status.", "lastTransitionTime": self.stamp()}  # fmt: skip
        tree["spec"]["taints"] = [{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]
        self.put(NODES, tree)
        self.happens("Node", tree, "NodeNotReady", f"Node {name} status is now: NodeNotReady", bad=True)  # fmt: skip
        ready_pods = [pod for pod in pods if is_ready(pod)]
        for pod in ready_pods:
            self._ready(pod, False, self.stamp(), "NodeNotReady")
            self.put(PODS, pod)
        self._recount(ready_pods)
        yield 70
        ready |= {"status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status", "lastTransitionTime": self.stamp()}  # fmt: skip
        tree["spec"]["taints"] = []
        self.put(NODES, tree)
        for pod in ready_pods:
            if self.objects[PODS.kind].get((pod["metadata"]["namespace"], pod["metadata"]["name"])) is pod and pod["status"]["containerStatuses"][0]["ready"]:  # fmt: skip
                self._ready(pod, True, self.stamp())
                self.put(PODS, pod)
        self._recount(ready_pods)
        self._busy.discard(f"node/{name}")

    def _recount(self, pods: Sequence[Tree]) -> None:
        """Count the pods of the workloads that these belong to. A rollout under way counts its own."""
        names = {f"{tree['metadata']['namespace']}/{tree['metadata']['labels']['app']}" for tree in pods}  # fmt: skip
        for name in sorted(names - self._busy):
            if (workload := self.workloads.get(name)) is not None:
                self.count(workload)
