"""How the answers of a dashboard become structs. Bad input raises `MalformedAnswerError` only.

The Jobs API is documented (https://docs.ray.io/en/latest/cluster/running-applications/
job-submission/api.html) and the State API is versioned (`/api/v0/`). `/nodes` and
`/api/cluster_status` serve Ray's own pages: everything in them is optional.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

import msgspec

from almenara_ray.autoscaler_text import parse_autoscaler_text
from almenara_ray.errors import MalformedAnswerError
from almenara_ray.models import (
    FINISHED,
    Application,
    ClusterStatus,
    Demand,
    Job,
    Node,
    Version,
)
from almenara_ray.redaction import redact
from almenara_ray.text import (
    clean_text,
    find_error,
    find_first_line,
    find_last_line,
    keep_end,
)
from almenara_ray.values import (
    as_amounts,
    as_integer,
    as_list,
    as_number,
    as_numbers,
    as_object,
    as_redacted_object,
    as_text,
    as_time,
    decode_json,
    resource_name,
    unwrap,
)

FIRST_LIST: Final = (2, 2)
"""Version of Ray since which the job list is a list, and no object by id."""
ENTRYPOINT_LIMIT: Final = 2_000
MESSAGE_LIMIT: Final = 4_000
"""Characters of a job's message that are stored: the last ones, which have the reason."""
MESSAGE_READ: Final = 64 * 1024
"""Characters of a message that are read: Ray's own limit for the log in it is 20,000."""
REASON_LIMIT: Final = 300
DEMAND_LIMIT: Final = 50
NODE_LIMIT: Final = 10_000
"""The most that Ray lists; it lists the last 1,000 dead nodes beside those that are alive."""
GPU_LIMIT: Final = 16
INTERNAL_ACTORS: Final = frozenset(("JobSupervisor", "ServeController", "ProxyActor"))
"""Actors that Ray runs for itself."""
ENTRIES: Final = msgspec.json.Decoder(list[msgspec.Raw])


# Jobs


def parse_jobs(body: bytes) -> tuple[list[Job], int]:
    """Return the jobs of `/api/jobs/`, oldest first, and the number of malformed entries."""
    return JobListParser().parse(body)


class JobListParser:
    """Parses one job list after another, and of each only the entries that are new or changed.

    A dashboard lists every job it has ever run, each time. Parsing thousands of unchanged entries
    once a second would take most of a processor.
    """

    def __init__(self) -> None:
        self._parsed: dict[bytes, Job | None] = {}

    def parse(self, body: bytes) -> tuple[list[Job], int]:
        """Return the jobs of `/api/jobs/`, oldest first, and the number of malformed entries."""
        try:
            entries = ENTRIES.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return parse_job_entries(_entries(decode_json(body)))
        previous, self._parsed = self._parsed, {}
        for entry in map(bytes, entries):
            self._parsed[entry] = previous[entry] if entry in previous else _parse_entry(entry)
        return _sort_jobs(self._parsed.values())


def _parse_entry(body: bytes) -> Job | None:
    try:
        return parse_job(decode_json(body))
    except MalformedAnswerError:
        return None


def _entries(tree: Any) -> Sequence[Any]:
    # Before `FIRST_LIST` the list was an object by id. Any other object, such as an error of a
    # proxy, has no jobs either, and must not end those that are running.
    if isinstance(tree, dict) and tree and all(isinstance(entry, dict) for entry in tree.values()):
        return [{"submission_id": job_id, **entry} for job_id, entry in tree.items()]
    if isinstance(tree, list):
        return tree
    raise MalformedAnswerError("its job list is not a list")


def lists_no_job(body: bytes, version: tuple[int, ...]) -> bool:
    """Return whether a body is the empty job list of a version whose lists are objects; of a later
    or an unknown version it is no list."""
    return body.strip() == b"{}" and () < version < FIRST_LIST


def _sort_jobs(jobs: Collection[Job | None]) -> tuple[list[Job], int]:
    by_run = {job.key: job for job in jobs if job is not None}
    ordered = sorted(by_run.values(), key=lambda job: (job.submitted, job.id))
    return ordered, sum(job is None for job in jobs)


def parse_job_entries(entries: Sequence[Any]) -> tuple[list[Job], int]:
    """Return the jobs of entries of the Jobs or the State API, oldest first, and the number of
    malformed entries."""
    return _sort_jobs([parse_job(entry) for entry in entries])


def parse_job(entry: Any) -> Job | None:
    """Return the job of one entry; None where the entry has no id or no status."""
    if not isinstance(entry, dict):
        return None
    job_id = as_text(entry.get("submission_id")) or as_text(entry.get("job_id"))
    status = as_text(entry.get("status")).upper()[:40]
    if not job_id or not status:
        return None
    message = _clean_message(entry.get("message"))
    exit_code = as_integer(entry.get("driver_exit_code"))
    return Job(
        id=job_id[:256],
        status=status,
        submitted=as_time(entry.get("start_time")) or 0,
        ended=as_time(entry.get("end_time")) if status in FINISHED else None,
        driver=not as_text(entry.get("submission_id")),
        entrypoint=redact(as_text(entry.get("entrypoint"))[:ENTRYPOINT_LIMIT]),
        reason=_find_reason(message, exit_code) if status == "FAILED" else "",
        # Redacted before the cut, which could remove a secret's name and leave the value.
        message=keep_end(message, MESSAGE_LIMIT),
        error_type=as_text(entry.get("error_type"))[:100],
        exit_code=exit_code,
        job_id=as_text(entry.get("job_id"))[:64],
        node_id=as_text(entry.get("driver_node_id"))[:128],
        metadata=as_redacted_object(entry.get("metadata")),
        runtime_env=as_redacted_object(entry.get("runtime_env")),
    )


def _clean_message(message: Any) -> str:
    return redact(clean_text(as_text(message)[-MESSAGE_READ:], MESSAGE_READ))


def _find_reason(message: str, exit_code: int | None) -> str:
    """Return why a job failed, in one line: its error, else the last line of its log, else the
    first line of the message.

    Ray's message is "…, last available logs (truncated to 20,000 chars):" and the log.
    """
    _, has_log, log = message.partition("last available logs")
    error = find_error(log or message)
    reason = error or (find_last_line(log.partition(":\n")[2]) if has_log else "")
    if has_log and reason:
        code = f" (exit code {exit_code})" if exit_code is not None else ""
        return f"{reason[:REASON_LIMIT]}{code}"
    return (reason or find_first_line(message))[:REASON_LIMIT]


def parse_log(body: bytes) -> str:
    """Return the log in an answer of `/api/jobs/<id>/logs`."""
    tree = decode_json(body)
    if not isinstance(tree, dict) or not isinstance(tree.get("logs"), str):
        raise MalformedAnswerError("its answer has no log")
    return str(tree["logs"])


# Nodes


def parse_state_rows(body: bytes) -> list[Any]:
    """Return the rows of an answer of the State API."""
    rows = as_object(unwrap(body).get("result")).get("result")
    if not isinstance(rows, list):
        raise MalformedAnswerError("its answer has no rows")
    return rows


def parse_nodes(body: bytes) -> list[Node]:
    """Return the nodes of `/api/v0/nodes`, dead ones among them."""
    return [
        Node(
            id=as_text(row["node_id"])[:128],
            head=row.get("is_head_node") is True,
            alive=as_text(row.get("state")).upper() != "DEAD",
            reason=redact(as_text(row.get("state_message"))[:500]),
            total=as_amounts(row.get("resources_total")),
        )
        for row in parse_state_rows(body)[:NODE_LIMIT]
        if isinstance(row, dict) and as_text(row.get("node_id"))
    ]


def parse_node_metrics(body: bytes) -> dict[str, Node]:
    """Return what `/nodes?view=summary` measures of each node, by node id."""
    summary = unwrap(body).get("summary")
    if not isinstance(summary, list):
        raise MalformedAnswerError("its answer has no summary of nodes")
    nodes = [_parse_measured_node(row) for row in summary[:NODE_LIMIT] if isinstance(row, dict)]
    return {node.id: node for node in nodes if node is not None}


def _parse_measured_node(row: dict[str, Any]) -> Node | None:
    raylet = as_object(row.get("raylet"))
    node_id = as_text(raylet.get("nodeId"))[:128]
    if not node_id:
        return None
    memory = as_numbers(row.get("mem"))
    object_used = as_number(raylet.get("objectStoreUsedMemory"))
    object_free = as_number(raylet.get("objectStoreAvailableMemory"))
    store = as_object(raylet.get("storeStats"))
    cpu = as_number(row.get("cpu"))
    return Node(
        id=node_id,
        name=as_text(row.get("hostname"))[:253],
        head=raylet.get("isHeadNode") is True,
        alive=as_text(raylet.get("state")).upper() != "DEAD",
        reason=redact(as_text(raylet.get("stateMessage"))[:500]),
        cpu=cpu / 100 if cpu is not None else None,
        memory_used=memory[0] - memory[1] if len(memory) > 1 else None,
        memory_total=memory[0] if memory else None,
        object_used=object_used,
        object_total=(
            object_used + object_free
            if object_used is not None and object_free is not None
            else None
        ),
        # The JSON of protobuf leaves out fields that are 0.
        spilled=(as_number(store.get("spilledBytesTotal")) or 0.0) if store else None,
        disk=_parse_fullest_disk(row.get("disk")),
        gpus=_parse_gpus(row.get("gpus")),
    )


def _parse_fullest_disk(disks: Any) -> float | None:
    shares = [
        percent / 100
        for disk in as_object(disks).values()
        if (percent := as_number(as_object(disk).get("percent"))) is not None
    ]
    return max(shares, default=None)


def _parse_gpus(gpus: Any) -> list[dict[str, Any]]:
    return [_parse_gpu(gpu) for gpu in as_list(gpus)[:GPU_LIMIT] if isinstance(gpu, dict)]


def _parse_gpu(gpu: dict[str, Any]) -> dict[str, Any]:
    use = as_number(gpu.get("utilizationGpu"))
    used, total = as_number(gpu.get("memoryUsed")), as_number(gpu.get("memoryTotal"))
    return {
        "name": as_text(gpu.get("name"))[:100],
        "use": use / 100 if use is not None else None,
        # Ray reports the memory of GPUs in MiB.
        "memory_used": used * 2**20 if used is not None else None,
        "memory_total": total * 2**20 if total is not None else None,
    }


# Usage, demand, tasks and actors


def parse_status(body: bytes) -> ClusterStatus | None:
    """Return usage, demand and autoscaler of `/api/cluster_status`; None where they are unknown.

    An autoscaler v2 writes no such status: it is null, and only the text of `format=1` has it. An
    autoscaler that has not reported yet has a status without any usage.
    """
    data = unwrap(body)
    status = as_object(data.get("clusterStatus"))
    load = as_object(status.get("loadMetricsReport"))
    usage = {
        resource_name(name): (amounts[0], amounts[1])
        for name, pair in as_object(load.get("usage")).items()
        if len(amounts := as_numbers(pair)) == 2 and not name.startswith("node:")
    }
    if not usage:
        return None
    report = as_object(status.get("autoscalerReport"))
    launches = as_amounts(report.get("pendingLaunches"))
    demand = [
        *_parse_task_demand(load.get("resourceDemand")),
        *_parse_group_demand(load.get("pgDemand")),
    ]
    return ClusterStatus(
        usage=usage,
        demand=demand[:DEMAND_LIMIT],
        starting=_count(report.get("pendingNodes")) + sum(map(int, launches.values())),
        failed=_count(report.get("failedNodes")),
        error=redact(as_text(data.get("autoscalingError"))[:1000]),
    )


def parse_formatted_status(body: bytes) -> ClusterStatus | None:
    """Return the status in the text of `/api/cluster_status?format=1`; None where it is unknown."""
    return parse_autoscaler_text(as_text(unwrap(body).get("clusterStatus")))


def _count(value: Any) -> int:
    return len(value) if isinstance(value, list | dict) else 0


def _parse_task_demand(demand: Any) -> Iterator[Demand]:
    """Pending tasks and actors: pairs of the resources of one and how many there are."""
    for pair in as_list(demand):
        if isinstance(pair, list) and len(pair) == 2 and (resources := as_amounts(pair[0])):
            yield Demand(resources=resources, count=as_integer(pair[1]) or 1)


def _parse_group_demand(demand: Any) -> Iterator[Demand]:
    """Pending placement groups: pairs of `strategy` and `bundles`, and how many there are."""
    for pair in as_list(demand):
        if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], dict)):
            continue
        total: dict[str, float] = {}
        for bundle in _parse_task_demand(pair[0].get("bundles")):
            for name, amount in bundle.resources.items():
                total[name] = total.get(name, 0.0) + amount * bundle.count
        if total:
            strategy = as_text(pair[0].get("strategy"))[:40] or "PACK"
            yield Demand(resources=total, count=as_integer(pair[1]) or 1, group=strategy)


def parse_state_counts(body: bytes) -> dict[str, int]:
    """Return the number of actors or tasks of `/api/v0/.../summarize` by state, without the
    actors that Ray runs for itself."""
    result = as_object(unwrap(body).get("result")).get("result")
    by_node = as_object(result).get("node_id_to_summary")
    if not isinstance(by_node, dict):
        raise MalformedAnswerError("its answer has no summary")
    counts: dict[str, int] = {}
    for part in by_node.values():
        for name, row in as_object(as_object(part).get("summary")).items():
            if name in INTERNAL_ACTORS:
                continue
            for state, count in as_object(as_object(row).get("state_counts")).items():
                counts[state[:60]] = counts.get(state[:60], 0) + (as_integer(count) or 0)
    return counts


# Serve and version


def parse_applications(body: bytes) -> list[Application]:
    """Return the applications of `/api/serve/applications/`."""
    applications = as_object(decode_json(body)).get("applications")
    if not isinstance(applications, dict):
        raise MalformedAnswerError("its answer has no applications")
    return [
        Application(
            name=name[:200],
            status=as_text(details.get("status"))[:40],
            message=keep_end(_clean_message(details.get("message")), MESSAGE_LIMIT),
            route=as_text(details.get("route_prefix"))[:200],
            deployments=_parse_deployments(details.get("deployments")),
        )
        for name, details in list(applications.items())[:200]
        if isinstance(details, dict)
    ]


def _parse_deployments(deployments: Any) -> list[dict[str, Any]]:
    return [
        {
            "name": name[:200],
            "status": as_text(details.get("status"))[:40],
            "message": keep_end(_clean_message(details.get("message")), 500),
            "replicas": sum(
                as_object(replica).get("state") == "RUNNING"
                for replica in as_list(details.get("replicas"))
            ),
            "target": as_integer(details.get("target_num_replicas")),
        }
        for name, details in list(as_object(deployments).items())[:100]
        if isinstance(details, dict)
    ]


def parse_version(body: bytes) -> Version:
    """Return what `/api/version` reports."""
    tree = as_object(decode_json(body))
    if not (ray := as_text(tree.get("ray_version"))):
        raise MalformedAnswerError("its answer has no version of Ray")
    return Version(ray=ray[:40], session=as_text(tree.get("session_name"))[:200])
