"""The logs of a pod's containers, while somebody looks at them."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from almenara.hookspecs import ClusterRight, Line, LogAccess
from almenara.sdk import Backoff, NotFound, sleep
from almenara.signals import Severity, format_time, parse_time
from almenara_kube.client import ApiClient, connect
from almenara_kube.errors import ApiError, UnreachableError
from almenara_kube.objects import DECODE_ERRORS
from almenara_kubernetes.manifests import belonging, chosen_cluster
from almenara_kubernetes.settings import NAME, ClusterSettings, KubernetesSettings

READ_LOGS: Final = ClusterRight(verb="get", resource="pods", subresource="log")
LINES: Final = 500
"""Lines read of what was written before."""
LONGEST_LINE: Final = 8_192
BATCH_WAIT: Final = 64
GONE: Final = frozenset({400, 401, 403, 404})
WAITING: Final = "waiting to start"
"""What a kubelet says, as an error, of a container that is still to write its first line."""
SECOND: Final = 1_000_000
LATEST: Final = 10.0
"""Seconds between two looks whether there is anything to read, at most."""
DEFAULT: Final = "kubectl.kubernetes.io/default-container"
"""The annotation that names the container people mean who name none."""
LEVELS: Final = (
    (re.compile(r"\b(FATAL|PANIC|CRITICAL)\b", re.IGNORECASE), Severity.FATAL),
    (re.compile(r"\b(ERROR|ERR|SEVERE|Traceback)\b|^E\d{4} ", re.IGNORECASE), Severity.ERROR),
    (re.compile(r"\b(WARN|WARNING)\b|^W\d{4} ", re.IGNORECASE), Severity.WARN),
    (re.compile(r"\b(DEBUG|TRACE)\b", re.IGNORECASE), Severity.DEBUG),
)
LEVEL_WITHIN: Final = 120
"""Characters of a line in which a level is looked for: further on it is what the line is about."""


class _Container(msgspec.Struct):
    name: str


class _Status(msgspec.Struct, rename="camel"):
    state: dict[str, Any] = {}
    last_state: dict[str, Any] = {}

    @property
    def begun(self) -> bool:
        return "waiting" not in self.state or bool(self.last_state)


class _Spec(msgspec.Struct, rename="camel"):
    containers: list[_Container] = []
    init_containers: list[_Container] = []


class _Statuses(msgspec.Struct, rename="camel"):
    container_statuses: list[_Status] = []


class _Metadata(msgspec.Struct):
    annotations: dict[str, str] = {}


class _Pod(msgspec.Struct):
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _Statuses = msgspec.field(default_factory=_Statuses)

    def usual(self) -> list[str]:
        """The containers whose lines are shown where none is chosen: the one that the pod itself
        names, or all; and until one of them has begun, those that prepare the pod as well."""
        mains = [it.name for it in self.spec.containers]
        if (named := self.metadata.annotations.get(DEFAULT)) in mains:
            mains = [str(named)]
        if any(it.begun for it in self.status.container_statuses):
            return mains
        return [*(it.name for it in self.spec.init_containers), *mains]


class _Pods(msgspec.Struct):
    items: list[_Pod] | None = None


class PodLogs:
    """A tail: the lines of `namespace` and `name`, of one `container` of any kind or of those that
    serve.

    `asked` also has `previous` (`yes`) for the container before its last restart.
    A namespace may be `<cluster>/<namespace>`, as in the names of resources.
    """

    name = "pod-logs"

    def __init__(self, settings: KubernetesSettings) -> None:
        self.settings = settings
        self.rights = [READ_LOGS] if settings.logs else []

    def access_for(self, asked: Mapping[str, str]) -> LogAccess:
        """The source and the namespace of the pod."""
        cluster, namespace, _ = self._chosen(asked)
        return belonging(cluster, namespace, READ_LOGS)

    async def lines(self, asked: Mapping[str, str]) -> AsyncIterator[Sequence[Line]]:
        """The last lines, then each as it is written. Raises `NotFound` and `OSError`."""
        cluster, namespace, pod = self._chosen(asked)
        previous = asked.get("previous", "") not in ("", "no", "false", "0")
        queue: asyncio.Queue[Sequence[Line] | Exception | None] = asyncio.Queue(BATCH_WAIT)
        async with connect(cluster.kube_context, self.settings) as connection:
            containers = await self._containers(connection, namespace, pod, asked)
            several = len(containers) > 1

            async def follow(container: str) -> None:
                source = container if several else ""
                try:
                    async for batch in _follow(
                        connection, namespace, pod, container, previous, source
                    ):
                        await queue.put(batch)
                except (NotFound, UnreachableError) as error:
                    # Of several, one that cannot be read keeps nobody from the others.
                    told = Line(text=str(error), severity=Severity.WARN, source=source)
                    await queue.put([told] if several else error)

            # No group of tasks: one must not be left by a generator that is closed while it yields.
            tasks = [asyncio.create_task(follow(it)) for it in containers]
            ending = asyncio.create_task(_end(tasks, queue))
            try:
                while (batch := await queue.get()) is not None:
                    if isinstance(batch, Exception):
                        raise batch
                    yield batch
            finally:
                for task in (*tasks, ending):
                    task.cancel()
                await asyncio.wait((*tasks, ending))

    def _chosen(self, asked: Mapping[str, str]) -> tuple[ClusterSettings, str, str]:
        if not self.settings.logs:
            raise NotFound(
                "logs are switched off; set plugins.kubernetes.logs to true and grant the rule"
                " that `almenara kubernetes rbac` then prints"
            )
        cluster, namespace = chosen_cluster(self.settings, asked)
        pod = asked.get("name", "")
        if not re.fullmatch(r"[a-z0-9.-]{1,253}", pod):
            raise NotFound("choose a pod: its namespace and its name")
        return cluster, namespace, pod

    async def _containers(
        self, connection: ApiClient, namespace: str, pod: str, asked: Mapping[str, str]
    ) -> Sequence[str]:
        chosen = asked.get("container", "")
        if chosen:
            if not NAME.fullmatch(chosen):
                raise NotFound(f"no container can be called {chosen[:80]!r}")
            return [chosen]
        # A list of one rather than the pod itself: no rule more is needed for it.
        path = f"/api/v1/namespaces/{namespace}/pods"
        try:
            body = await connection.get(path, {"fieldSelector": f"metadata.name={pod}"})
            pods = msgspec.json.decode(body, type=_Pods, strict=False).items or []
        except ApiError as error:
            raise NotFound(str(error)) from None
        except DECODE_ERRORS as error:
            raise NotFound(f"the pod cannot be read: {error}") from None
        if not pods:
            raise NotFound(f"there is no pod {pod} in {namespace} any more")
        return pods[0].usual()


async def _end(tasks: Sequence["asyncio.Task[None]"], queue: "asyncio.Queue[Any]") -> None:
    await asyncio.wait(tasks)
    await queue.put(None)


async def _follow(
    connection: ApiClient, namespace: str, pod: str, container: str, previous: bool, source: str
) -> AsyncIterator[Sequence[Line]]:
    """Lines of one container, over every break of the connection and each once."""
    path = f"/api/v1/namespaces/{namespace}/pods/{pod}/log"
    parameters = {"container": container, "timestamps": "true", "tailLines": str(LINES)}
    if previous:
        parameters["previous"] = "true"
    else:
        parameters["follow"] = "true"
    backoff, seen = Backoff(0.8, LATEST), _Seen()
    while True:
        fresh = False
        try:
            async with connection.stream(path, parameters, silence=None) as stream:
                rest = b""
                async for chunk in stream.chunks():
                    *whole, rest = (rest + chunk).split(b"\n")
                    if len(rest) > LONGEST_LINE:
                        whole, rest = [*whole, rest[:LONGEST_LINE]], b""
                    batch = [it for raw in whole if (it := seen.new(raw, source)) is not None]
                    if batch:
                        backoff.succeeded()
                        fresh = True
                        yield batch
                if rest and (last := seen.new(rest, source)) is not None:
                    yield [last]
        except ApiError as error:
            if error.status in GONE and (previous or WAITING not in str(error)):
                raise NotFound(str(error)) from None
        except UnreachableError:
            if previous:
                raise
        else:
            # An API server ends it just as well where only the kubelet broke off, or where the
            # container was started again: over is what has nothing to add.
            if previous or not fresh:
                return
        if seen.time:
            # In whole seconds, as the API takes it; what was shown of that second is left out.
            parameters["sinceTime"] = format_time(seen.time // SECOND * SECOND)
            parameters.pop("tailLines", None)
            seen.resumed()
        await sleep(backoff.failed())


class _Seen:
    """Knows what of a log was shown, so that going on repeats nothing.

    Within one stream every line is shown, whatever its stamp: several may have the same, and those
    of the standard output and of errors come out of order.
    """

    def __init__(self) -> None:
        self.time = 0
        """The newest time of a line, in microseconds since the epoch."""
        self._shown: Counter[bytes] = Counter()
        """The lines of that second, which is where the log is gone on with."""
        self._since: int | None = None
        self._repeated: Counter[bytes] = Counter()
        """Of those, the ones that are still to come a second time."""

    def resumed(self) -> None:
        """The log is read again from the second of the newest line."""
        self._since = self.time // SECOND * SECOND
        self._repeated = self._shown.copy()

    def new(self, raw: bytes, source: str) -> Line | None:
        """The line, or None where it was shown already."""
        stamp, _, text = raw.rstrip(b"\r").partition(b" ")
        time: int | None = None
        try:
            # Nanoseconds are more than fromisoformat takes.
            written = re.sub(r"(\.\d{6})\d+", r"\1", stamp.decode("ascii"))
            time = parse_time(written)
        except (ValueError, UnicodeDecodeError):
            text = raw
        if time is not None:
            if self._since is not None and time < self._since:
                return None
            if self._repeated[raw]:
                self._repeated[raw] -= 1
                return None
            if time // SECOND > self.time // SECOND:
                self._shown.clear()
            self.time = max(self.time, time)
            if time // SECOND == self.time // SECOND:
                self._shown[raw] += 1
        shown = text[:LONGEST_LINE].decode("utf-8", "replace")
        return Line(text=shown, time=time, severity=_severity(shown), source=source)


def _severity(text: str) -> Severity:
    beginning = text[:LEVEL_WITHIN]
    for pattern, severity in LEVELS:
        if pattern.search(beginning):
            return severity
    return Severity.INFO
