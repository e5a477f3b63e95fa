"""The logs of a pod's containers, read while a viewer has them open."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from almenara.hookspecs import ClusterRight, Line, LogAccess
from almenara.sdk import Backoff, NotFound, describe_error, sleep
from almenara.signals import Severity, format_time
from almenara.units import SECOND
from almenara_kube.client import ApiClient, connect
from almenara_kube.errors import ApiError, UnreachableError
from almenara_kube.objects import DECODE_ERRORS
from almenara_kubernetes.log_lines import LineSplitter, LineTracker
from almenara_kubernetes.manifests import cluster_access, select_cluster
from almenara_kubernetes.settings import NAME, ClusterSettings, KubernetesSettings

READ_LOGS: Final = ClusterRight(verb="get", resource="pods", subresource="log")
TAIL: Final = 500
"""Lines from before that are read."""
QUEUE: Final = 64
FINAL_STATUSES: Final = frozenset({400, 401, 403, 404})
NOT_STARTED: Final = "waiting to start"
"""What a kubelet answers, as an error, for a container that has not written its first line."""
RETRY_FIRST: Final = 0.8
RETRY_LIMIT: Final = 10.0
"""Seconds between two attempts to read a log, at most."""
DEFAULT_CONTAINER: Final = "kubectl.kubernetes.io/default-container"
POD_NAME: Final = re.compile(r"[a-z0-9.-]{1,253}")
FALSE: Final = ("", "no", "false", "0")


class _Container(msgspec.Struct):
    name: str


class _ContainerStatus(msgspec.Struct, rename="camel"):
    state: dict[str, Any] = {}
    last_state: dict[str, Any] = {}

    @property
    def has_started(self) -> bool:
        return "waiting" not in self.state or bool(self.last_state)


class _Spec(msgspec.Struct, rename="camel"):
    containers: list[_Container] = []
    init_containers: list[_Container] = []


class _Status(msgspec.Struct, rename="camel"):
    container_statuses: list[_ContainerStatus] = []


class _Metadata(msgspec.Struct):
    annotations: dict[str, str] = {}


class _Pod(msgspec.Struct):
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _Status = msgspec.field(default_factory=_Status)

    def default_containers(self) -> list[str]:
        """The containers to read where none is chosen: the one that the pod's annotation names, or
        all main ones; and the init containers too until a main one has started."""
        names = [container.name for container in self.spec.containers]
        if (default := self.metadata.annotations.get(DEFAULT_CONTAINER)) in names:
            names = [str(default)]
        if any(status.has_started for status in self.status.container_statuses):
            return names
        return [*(container.name for container in self.spec.init_containers), *names]


class _PodList(msgspec.Struct):
    items: list[_Pod] | None = None


class PodLogs:
    """A log stream: the lines of the pod `name` in `namespace`.

    Filters are also `container`, for one of any kind instead of the default ones, and `previous`
    (`yes`), for the instance before its last restart. A namespace may be `<cluster>/<namespace>`,
    as in the names of resources.
    """

    name = "pod-logs"

    def __init__(self, settings: KubernetesSettings) -> None:
        self.settings = settings
        self.rights = [READ_LOGS] if settings.logs else []

    def access_for(self, filters: Mapping[str, str]) -> LogAccess:
        """The source and the namespace of the pod."""
        cluster, namespace, _ = self._select_pod(filters)
        return cluster_access(cluster, namespace, READ_LOGS)

    async def lines(self, filters: Mapping[str, str]) -> AsyncIterator[Sequence[Line]]:
        """The last lines, then each new one. Raises `NotFound` and `OSError`."""
        cluster, namespace, pod = self._select_pod(filters)
        previous = filters.get("previous", "") not in FALSE
        queue: asyncio.Queue[Sequence[Line] | Exception | None] = asyncio.Queue(QUEUE)
        async with connect(cluster.kube_context, self.settings) as client:
            containers = await self._select_containers(client, namespace, pod, filters)
            is_alone = len(containers) == 1

            async def follow(container: str) -> None:
                source = "" if is_alone else container
                reader = ContainerLog(client, namespace, pod, container, previous, source)
                try:
                    async for batch in reader.lines():
                        await queue.put(batch)
                except (NotFound, UnreachableError) as error:
                    # Of several, one that cannot be read does not end the others.
                    line = Line(text=str(error), severity=Severity.WARN, source=source)
                    await queue.put(error if is_alone else [line])

            # Not a TaskGroup, which must not be left by a generator that is closed while it yields.
            tasks = [asyncio.create_task(follow(container)) for container in containers]
            ending = asyncio.create_task(_end_queue(tasks, queue))
            try:
                while (batch := await queue.get()) is not None:
                    if isinstance(batch, Exception):
                        raise batch
                    yield batch
            finally:
                for task in (*tasks, ending):
                    task.cancel()
                await asyncio.wait((*tasks, ending))

    def _select_pod(self, filters: Mapping[str, str]) -> tuple[ClusterSettings, str, str]:
        if not self.settings.logs:
            raise NotFound(
                "logs are switched off; set plugins.kubernetes.logs to true and grant the rule"
                " that `almenara kubernetes rbac` then prints"
            )
        cluster, namespace = select_cluster(self.settings, filters)
        pod = filters.get("name", "")
        if not POD_NAME.fullmatch(pod):
            raise NotFound("choose a pod: its namespace and its name")
        return cluster, namespace, pod

    async def _select_containers(
        self, client: ApiClient, namespace: str, pod: str, filters: Mapping[str, str]
    ) -> Sequence[str]:
        container = filters.get("container", "")
        if container:
            if not NAME.fullmatch(container):
                raise NotFound(f"{container[:80]!r} is not a valid name of a container")
            return [container]
        # A list of one instead of the pod itself, which would need one more rule.
        path = f"/api/v1/namespaces/{namespace}/pods"
        try:
            body = await client.get(path, {"fieldSelector": f"metadata.name={pod}"})
            pods = msgspec.json.decode(body, type=_PodList, strict=False).items or []
        except ApiError as error:
            raise NotFound(str(error)) from None
        except DECODE_ERRORS as error:
            raise NotFound(f"the pod cannot be read: {describe_error(error, 200)}") from None
        if not pods:
            raise NotFound(f"the pod {pod} in {namespace} does not exist any more")
        return pods[0].default_containers()


async def _end_queue(tasks: Sequence["asyncio.Task[None]"], queue: "asyncio.Queue[Any]") -> None:
    await asyncio.wait(tasks)
    await queue.put(None)


class ContainerLog:
    """The log of one container, across every break of the connection, each line once."""

    def __init__(
        self,
        client: ApiClient,
        namespace: str,
        pod: str,
        container: str,
        previous: bool,
        source: str,
    ) -> None:
        self.client, self.previous, self.source = client, previous, source
        self._path = f"/api/v1/namespaces/{namespace}/pods/{pod}/log"
        self._parameters = {
            "container": container,
            "timestamps": "true",
            "tailLines": str(TAIL),
            **({"previous": "true"} if previous else {"follow": "true"}),
        }
        self._tracker = LineTracker()
        self._backoff = Backoff(RETRY_FIRST, RETRY_LIMIT)
        self._has_new = False
        self._failure = ""

    async def lines(self) -> AsyncIterator[Sequence[Line]]:
        """Yield lines until the log ends. A failure that is retried is a line as well.

        Raises `NotFound` where the log does not exist or may not be read.
        """
        while True:
            self._has_new = False
            try:
                async for batch in self._read():
                    yield batch
            except ApiError as error:
                if error.status in FINAL_STATUSES:
                    if self.previous or NOT_STARTED not in str(error):
                        raise NotFound(str(error)) from None
                elif (line := self._describe_failure(error)) is not None:
                    yield [line]
            except UnreachableError as error:
                if self.previous:
                    raise
                if (line := self._describe_failure(error)) is not None:
                    yield [line]
            else:
                # An API server ends the answer in the same way where only the kubelet broke off or
                # the container was restarted: the log has ended when nothing new arrives.
                if self.previous or not self._has_new:
                    return
            if self._tracker.time:
                # In whole seconds, as the API takes it; repeated lines are dropped.
                since = self._tracker.time // SECOND * SECOND
                self._parameters["sinceTime"] = format_time(since)
                self._parameters.pop("tailLines", None)
                self._tracker.resume()
            await sleep(self._backoff.failed())

    async def _read(self) -> AsyncIterator[Sequence[Line]]:
        splitter = LineSplitter()
        async with self.client.stream(self._path, self._parameters, silence=None) as stream:
            async for chunk in stream.chunks():
                batch = [
                    line
                    for raw in splitter.split(chunk)
                    if (line := self._tracker.accept(raw, self.source)) is not None
                ]
                if batch:
                    self._backoff.succeeded()
                    self._has_new, self._failure = True, ""
                    yield batch
            last = splitter.last()
            if last and (line := self._tracker.accept(last, self.source)) is not None:
                yield [line]

    def _describe_failure(self, error: Exception) -> Line | None:
        """The line about a failure; None where the last one was the same."""
        text = f"The log cannot be read: {describe_error(error)}. Retrying."
        if text == self._failure:
            return None
        self._failure = text
        return Line(text=text, severity=Severity.WARN, source=self.source)
