"""What a dashboard answers, read into a few structs. Whatever comes, nothing but `AnswerError`.

The Jobs API is documented (https://docs.ray.io/en/latest/cluster/running-applications/
job-submission/api.html) and the State API is versioned (`/api/v0/`). `/nodes` and
`/api/cluster_status` are what Ray's own pages read: everything from them may be absent. They rename
the keys of what they hold: `object_store_memory` arrives as `objectStoreMemory`.
"""

import contextlib
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from almenara_ray.masking import masked, masked_tree

FINISHED: Final = frozenset(("SUCCEEDED", "FAILED", "STOPPED"))
UNFINISHED: Final = frozenset(("PENDING", "RUNNING"))
ENTRYPOINT: Final = 2_000
MESSAGE: Final = 4_000
TREE: Final = 8_000
BUNDLES: Final = 50
NODES: Final = 10_000
"""The most that Ray lists; it keeps the last 1,000 dead ones beside those that live."""
MILLISECOND: Final = 1_000
LATEST: Final = 253_402_300_799_999
"""Milliseconds of the end of the year 9999."""


class AnswerError(ValueError):
    """An answer is not what this endpoint gives; the text says why."""


class Job(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A job as it is shown and kept, secrets hidden."""

    id: str
    """Submission id, or the job id of a driver that nobody submitted."""
    status: str
    submitted: int
    """Microseconds since the epoch; 0 where Ray does not say."""
    ended: int | None = None
    """Microseconds since the epoch."""
    driver: bool = False
    """Whether it is a driver that was started by hand."""
    entrypoint: str = ""
    message: str = ""
    error_type: str = ""
    exit_code: int | None = None
    job_id: str = ""
    """Ray's number of the job, by which its tasks and actors are known."""
    node_id: str = ""
    """Node of its driver."""
    metadata: dict[str, Any] = {}
    runtime_env: dict[str, Any] = {}

    @property
    def key(self) -> str:
        """One run of one job: ids are used again once a job is deleted or a head starts anew."""
        return f"{self.id}@{self.submitted}"

    @property
    def seconds(self) -> float | None:
        """Seconds from its submission to its end."""
        if self.ended is None or not self.submitted:
            return None
        return max(self.ended - self.submitted, 0) / 1_000_000


class Node(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A machine or pod of a cluster."""

    id: str
    name: str = ""
    """Its host name: under KubeRay that of its pod."""
    head: bool = False
    alive: bool = True
    reason: str = ""
    """What Ray says of a dead one."""
    total: dict[str, float] = {}
    """Resources by name: `CPU`, `GPU`, `memory` and `object_store_memory` (bytes), others."""
    cpu: float | None = None
    """Share of its processors that work."""
    memory_used: float | None = None
    """Bytes."""
    memory_total: float | None = None
    object_used: float | None = None
    object_total: float | None = None
    spilled: float | None = None
    """Bytes of objects written to disk so far."""
    disk: float | None = None
    """Share of its fullest disk."""
    gpus: list[dict[str, Any]] = []
    """`name`, `use` (share), `memory_used` and `memory_total` (bytes)."""


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """What waits for resources."""

    resources: dict[str, float]
    count: int
    group: str = ""
    """Strategy of a placement group; empty for tasks and actors."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """Use, demand and autoscaler of a cluster."""

    usage: dict[str, tuple[float, float]] = {}
    """Used and total of each resource."""
    demand: list[Demand] = []
    starting: int = 0
    """Nodes that the autoscaler has asked for."""
    failed: int = 0
    """Nodes that could not be started lately."""
    error: str = ""
    """What the autoscaler complains of."""


class Application(msgspec.Struct, frozen=True, kw_only=True):
    """A Serve application and its deployments."""

    name: str
    status: str
    message: str = ""
    route: str = ""
    deployments: list[dict[str, Any]] = []
    """`name`, `status`, `message`, `replicas` (running) and `target`."""


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """What Ray says of itself."""

    ray: str = ""
    session: str = ""
    """Named anew whenever the head starts; older Rays do not tell."""


def jobs(body: bytes) -> tuple[list[Job], int]:
    """The jobs of `/api/jobs/`, oldest first, and how many entries could not be read."""
    return JobList().read(body)


class JobList:
    """Reads one list of jobs after another, and of each only the entries that are new in it: a
    dashboard lists all the jobs it has ever had, every time."""

    def __init__(self) -> None:
        self._read: dict[bytes, Job | None] = {}

    def read(self, body: bytes) -> tuple[list[Job], int]:
        """The jobs of `/api/jobs/`, oldest first, and how many entries could not be read."""
        try:
            entries = ENTRIES.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return listed(_entries(decoded(body)))
        before, self._read = self._read, {}
        for entry in map(bytes, entries):
            self._read[entry] = before[entry] if entry in before else _entry(entry)
        return _ordered(self._read.values())


ENTRIES: Final = msgspec.json.Decoder(list[msgspec.Raw])


def _entry(body: bytes) -> Job | None:
    try:
        return job(decoded(body))
    except AnswerError:
        return None


def _entries(tree: Any) -> Sequence[Any]:
    # Until Ray 2.1 it was an object by id.
    if isinstance(tree, dict) and "data" not in tree:
        return [{"submission_id": of, **it} for of, it in tree.items() if isinstance(it, dict)]
    if isinstance(tree, list):
        return tree
    raise AnswerError("its list of jobs is no list")


def _ordered(found: Collection[Job | None]) -> tuple[list[Job], int]:
    by_run = {it.key: it for it in found if it is not None}
    ordered = sorted(by_run.values(), key=lambda it: (it.submitted, it.id))
    return ordered, sum(it is None for it in found)


def listed(entries: Sequence[Any]) -> tuple[list[Job], int]:
    """The jobs of entries of the Jobs or the State API, oldest first, and how many are none."""
    return _ordered([job(entry) for entry in entries])


def job_id(entry: Any) -> str | None:
    """The id of an entry; None where it is no job."""
    if not isinstance(entry, dict):
        return None
    found = text(entry.get("submission_id")) or text(entry.get("job_id"))
    return found if found and text(entry.get("status")) else None


def job(entry: Any) -> Job | None:
    """The job of an entry; None where it is none."""
    name = job_id(entry)
    if name is None:
        return None
    status = text(entry.get("status")).upper()[:40]
    ended = moment(entry.get("end_time"))
    return Job(
        id=name[:256],
        status=status,
        submitted=moment(entry.get("start_time")) or 0,
        ended=ended if status in FINISHED else None,
        driver=not text(entry.get("submission_id")),
        entrypoint=masked(text(entry.get("entrypoint"))[:ENTRYPOINT]),
        # What is cut off may be the name of a secret whose value is left.
        message=masked(text(entry.get("message"))[-2 * MESSAGE :])[-MESSAGE:],
        error_type=text(entry.get("error_type"))[:100],
        exit_code=whole(entry.get("driver_exit_code")),
        job_id=text(entry.get("job_id"))[:64],
        node_id=text(entry.get("driver_node_id"))[:128],
        metadata=small(entry.get("metadata")),
        runtime_env=small(entry.get("runtime_env")),
    )


def state_rows(body: bytes) -> list[Any]:
    """The rows of an answer of the State API."""
    data = wrapped(body)
    result = data.get("result")
    rows = result.get("result") if isinstance(result, dict) else None
    if not isinstance(rows, list):
        raise AnswerError("its answer holds no rows")
    return rows


def nodes(body: bytes) -> list[Node]:
    """The nodes of `/api/v0/nodes`, dead ones among them."""
    found = []
    for row in state_rows(body)[:NODES]:
        if not isinstance(row, dict) or not text(row.get("node_id")):
            continue
        found.append(
            Node(
                id=text(row["node_id"])[:128],
                head=row.get("is_head_node") is True,
                alive=text(row.get("state")).upper() != "DEAD",
                reason=masked(text(row.get("state_message"))[:500]),
                total=amounts(row.get("resources_total")),
            )
        )
    return found


def measured(body: bytes) -> dict[str, Node]:
    """What `/nodes?view=summary` tells of each node, by id."""
    summary = wrapped(body).get("summary")
    if not isinstance(summary, list):
        raise AnswerError("its answer holds no summary of nodes")
    found = {}
    for row in summary[:NODES]:
        raylet = row.get("raylet") if isinstance(row, dict) else None
        if not isinstance(raylet, dict) or not text(raylet.get("nodeId")):
            continue
        node_id = text(raylet["nodeId"])[:128]
        memory = numbers(row.get("mem"))
        used = number(raylet.get("objectStoreUsedMemory"))
        left = number(raylet.get("objectStoreAvailableMemory"))
        stats = raylet.get("storeStats")
        stats = stats if isinstance(stats, dict) else {}
        cpu = number(row.get("cpu"))
        found[node_id] = Node(
            id=node_id,
            name=text(row.get("hostname"))[:253],
            head=raylet.get("isHeadNode") is True,
            alive=text(raylet.get("state")).upper() != "DEAD",
            reason=masked(text(raylet.get("stateMessage"))[:500]),
            cpu=cpu / 100 if cpu is not None else None,
            memory_used=memory[0] - memory[1] if len(memory) > 1 else None,
            memory_total=memory[0] if memory else None,
            object_used=used,
            object_total=used + left if used is not None and left is not None else None,
            # What is 0 is left out of the JSON of protobuf.
            spilled=(number(stats.get("spilledBytesTotal")) or 0.0) if stats else None,
            disk=fullest(row.get("disk")),
            gpus=graphics(row.get("gpus")),
        )
    return found


def status(body: bytes) -> Status:
    """Use, demand and autoscaler of `/api/cluster_status`."""
    data = wrapped(body)
    whole_status = data.get("clusterStatus")
    whole_status = whole_status if isinstance(whole_status, dict) else {}
    load = whole_status.get("loadMetricsReport")
    load = load if isinstance(load, dict) else {}
    report = whole_status.get("autoscalerReport")
    report = report if isinstance(report, dict) else {}
    usage = load.get("usage")
    launches = report.get("pendingLaunches")
    return Status(
        usage={
            named(name): (pair[0], pair[1])
            for name, it in (usage.items() if isinstance(usage, dict) else ())
            if len(pair := numbers(it)) == 2 and not name.startswith("node:")
        },
        demand=[*bundles(load.get("resourceDemand")), *groups(load.get("pgDemand"))][:BUNDLES],
        starting=size(report.get("pendingNodes"))
        + sum(int(it) for it in amounts(launches).values()),
        failed=size(report.get("failedNodes")),
        error=masked(text(data.get("autoscalingError"))[:1000]),
    )


def bundles(demand: Any) -> Iterator[Demand]:
    """Pending tasks and actors: pairs of what one needs and how many there are."""
    for it in demand if isinstance(demand, list) else ():
        if isinstance(it, list) and len(it) == 2 and (wanted := amounts(it[0])):
            yield Demand(resources=wanted, count=whole(it[1]) or 1)


def groups(demand: Any) -> Iterator[Demand]:
    """Pending placement groups: each a pair of `strategy` and `bundles`, and how many there are."""
    for it in demand if isinstance(demand, list) else ():
        if not (isinstance(it, list) and len(it) == 2 and isinstance(it[0], dict)):
            continue
        total: dict[str, float] = {}
        for one in bundles(it[0].get("bundles")):
            for name, value in one.resources.items():
                total[name] = total.get(name, 0.0) + value * one.count
        if total:
            strategy = text(it[0].get("strategy"))[:40] or "PACK"
            yield Demand(resources=total, count=whole(it[1]) or 1, group=strategy)


def states(body: bytes) -> dict[str, int]:
    """Actors or tasks of `/api/v0/.../summarize` by state, those that Ray runs for itself left
    out."""
    result = wrapped(body).get("result")
    rows = result.get("result") if isinstance(result, dict) else None
    by_node = rows.get("node_id_to_summary") if isinstance(rows, dict) else None
    if not isinstance(by_node, dict):
        raise AnswerError("its answer holds no summary")
    found: dict[str, int] = {}
    for part in by_node.values():
        summary = part.get("summary") if isinstance(part, dict) else None
        for name, row in summary.items() if isinstance(summary, dict) else ():
            counts = row.get("state_counts") if isinstance(row, dict) else None
            if name in ("JobSupervisor", "ServeController", "ProxyActor"):
                continue
            for state, count in counts.items() if isinstance(counts, dict) else ():
                found[state[:60]] = found.get(state[:60], 0) + (whole(count) or 0)
    return found


def applications(body: bytes) -> list[Application]:
    """The applications of `/api/serve/applications/`."""
    tree = decoded(body)
    given = tree.get("applications") if isinstance(tree, dict) else None
    if not isinstance(given, dict):
        raise AnswerError("its answer holds no applications")
    return [
        Application(
            name=name[:200],
            status=text(it.get("status"))[:40],
            message=masked(text(it.get("message"))[:1000]),
            route=text(it.get("route_prefix"))[:200],
            deployments=deployments(it.get("deployments")),
        )
        for name, it in list(given.items())[:200]
        if isinstance(it, dict)
    ]


def deployments(given: Any) -> list[dict[str, Any]]:
    """The deployments of an application."""
    return [
        {
            "name": name[:200],
            "status": text(it.get("status"))[:40],
            "message": masked(text(it.get("message"))[:500]),
            "replicas": running(it.get("replicas")),
            "target": whole(it.get("target_num_replicas")),
        }
        for name, it in (list(given.items())[:100] if isinstance(given, dict) else ())
        if isinstance(it, dict)
    ]


def running(replicas: Any) -> int:
    """How many of the replicas of a deployment run."""
    return sum(
        1
        for it in (replicas if isinstance(replicas, list) else ())
        if isinstance(it, dict) and it.get("state") == "RUNNING"
    )


def version(body: bytes) -> Version:
    """What `/api/version` says."""
    tree = decoded(body)
    if not isinstance(tree, dict):
        raise AnswerError("its version is no object")
    return Version(
        ray=text(tree.get("ray_version"))[:40], session=text(tree.get("session_name"))[:200]
    )


def log_text(body: bytes) -> str:
    """The log in an answer of `/api/jobs/<id>/logs`."""
    tree = decoded(body)
    if not isinstance(tree, dict) or not isinstance(tree.get("logs"), str):
        raise AnswerError("its answer holds no log")
    return str(tree["logs"])


def decoded(body: bytes) -> Any:
    """The JSON of an answer. Raises `AnswerError`."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # What people put into metadata and environments, Ray writes as Python does: NaN and
        # halves of characters, which are no JSON, among it.
        with contextlib.suppress(ValueError, RecursionError):
            return _sound(json.loads(body, parse_constant=lambda _: None))
        start = body.lstrip()[:1]
        what = "HTML" if start == b"<" else "no JSON"
        raise AnswerError(
            f"its answer is {what} ({str(error)[:120]}); is this Ray's dashboard?"
        ) from None


def _sound(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {text(name): _sound(it) for name, it in tree.items()}
    if isinstance(tree, list):
        return [_sound(it) for it in tree]
    return text(tree) if isinstance(tree, str) else tree


def wrapped(body: bytes) -> dict[str, Any]:
    """The `data` of an answer in Ray's envelope."""
    tree = decoded(body)
    if not isinstance(tree, dict):
        raise AnswerError("its answer is no object")
    if tree.get("result") is False:
        raise AnswerError(f"it says: {masked(text(tree.get('msg'))[:200])}")
    data = tree.get("data")
    if not isinstance(data, dict):
        raise AnswerError("its answer holds no data")
    return data


def text(value: Any) -> str:
    """A text; empty for anything else. Lone surrogates, which no database takes, are replaced."""
    if not isinstance(value, str):
        return ""
    return value if value.isascii() else value.encode("utf-8", "replace").decode()


def number(value: Any) -> float | None:
    """A finite number, or the text of one as protobuf's JSON writes 64 bits."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def whole(value: Any) -> int | None:
    """A whole number of 32 bits; None for anything else."""
    found = number(value)
    return int(found) if found is not None and abs(found) < 2**31 else None


def numbers(value: Any) -> list[float]:
    """The numbers of a list; empty where it holds anything else."""
    if not isinstance(value, list):
        return []
    found = [number(it) for it in value]
    return [it for it in found if it is not None] if None not in found else []


def moment(value: Any) -> int | None:
    """Microseconds since the epoch of Ray's milliseconds; None for 0, which is its none."""
    found = number(value)
    if found is None or not 0 < found <= LATEST:
        return None
    return int(found) * MILLISECOND


def amounts(value: Any) -> dict[str, float]:
    """Amounts by name of resource, without those that only name a node."""
    if not isinstance(value, dict):
        return {}
    return {
        named(name)[:100]: found
        for name, it in list(value.items())[:200]
        if (found := number(it)) is not None and not name.startswith("node:")
    }


def named(name: str) -> str:
    """The name of a resource as Ray knows it, of the form that an answer has it in."""
    return "object_store_memory" if name == "objectStoreMemory" else text(name)


def size(value: Any) -> int:
    """How many things a list or an object holds."""
    return len(value) if isinstance(value, list | dict) else 0


def small(value: Any) -> dict[str, Any]:
    """An object without secrets, or a note where it is too large to be kept."""
    if not isinstance(value, Mapping) or not value:
        return {}
    hidden = masked_tree(value)
    written = msgspec.json.encode(hidden)
    if len(written) > TREE:
        return {"(left out)": f"{len(written):,} bytes"}
    return {text(name): it for name, it in hidden.items()}


def fullest(disks: Any) -> float | None:
    """The share that is used of the fullest disk."""
    shares = [
        share / 100
        for it in (disks.values() if isinstance(disks, dict) else ())
        if isinstance(it, dict) and (share := number(it.get("percent"))) is not None
    ]
    return max(shares, default=None)


def graphics(gpus: Any) -> list[dict[str, Any]]:
    """The graphics processors of a node."""
    found = []
    for it in gpus[:16] if isinstance(gpus, list) else ():
        if not isinstance(it, dict):
            continue
        use = number(it.get("utilizationGpu"))
        used, total = number(it.get("memoryUsed")), number(it.get("memoryTotal"))
        found.append(
            {
                "name": text(it.get("name"))[:100],
                "use": use / 100 if use is not None else None,
                # Ray tells the memory of graphics processors in MiB.
                "memory_used": used * 2**20 if used is not None else None,
                "memory_total": total * 2**20 if total is not None else None,
            }
        )
    return found
