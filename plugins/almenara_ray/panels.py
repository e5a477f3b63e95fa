"""What people see: jobs, their timeline, clusters, and one job with its log."""

import functools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from almenara.config import PlacedPanel
from almenara.hookspecs import (
    Column,
    DataView,
    EventQuery,
    EventsPanel,
    Filter,
    LogPanel,
    LogQuery,
    Page,
    Panel,
    ResourceQuery,
    StatusPanel,
    TablePanel,
    TemplatePanel,
)
from almenara.sdk import now
from almenara.signals import Event, Resource, Severity, format_time
from almenara_ray.durations import alike
from almenara_ray.following import APPLICATION, CLUSTER, JOB, NODE, SEVERITIES, correlation
from almenara_ray.settings import RaySettings

RAY_JOB: Final = "ray.rayjob"
RAY_CLUSTER: Final = "ray.raycluster"
DONE: Final = ("Complete", "Failed", "ValidationFailed")
"""Where a RayJob can have come to and goes no further."""
ENDS: Final[Mapping[str, str]] = {
    "SUCCEEDED": f"{JOB}.succeeded",
    "FAILED": f"{JOB}.failed",
    "STOPPED": f"{JOB}.stopped",
    "LOST": f"{JOB}.lost",
}
"""The type of the event that tells of each end."""
STATUSES: Final = ("RUNNING", "PENDING", *ENDS)
PER_PAGE: Final = 25
COUNTED: Final = 1_000
SECOND: Final = 1_000_000
HOUR: Final = 3_600 * SECOND
SPANS: Final[Mapping[str, int]] = {"1h": 1, "3h": 3, "12h": 12, "48h": 48}
DRAWN: Final = 400
ROWS: Final = 16
LANES: Final = 5
WIDE: Final = 1_000.0
LANE: Final = 9
THINNEST: Final = 3.0
EMPTY: Final[Mapping[str, Any]] = dict.fromkeys(
    ("node", "node_id", "job_id", "error_type", "message"), ""
) | {"exit_code": None}
"""What a job may lack."""
STATUS: Final = Filter(name="status", label="Status", choices=STATUSES)
WORDS: Final = Filter(name="text", label="Words", hint="in a job or its reason")
SPAN: Final = Filter(name="span", label="Hours", choices=tuple(SPANS))
JOB_ID: Final = Filter(name="name", label="Job")
POD_OF: Final = "ray.io/cluster"
"""The label of KubeRay that says which RayCluster a pod is of."""
PODS: Final = 12
OVERDUE: Final = 1.5
"""A job that takes this many times as long as usual is marked."""
BARS: Final = (
    ("CPU", "CPU", "number"),
    ("GPU", "GPU", "number"),
    ("memory", "Memory", "bytes"),
    ("object_store_memory", "Objects", "bytes"),
)


def panels(settings: RaySettings) -> Sequence[Panel]:
    """The panels of the plugin."""
    which = cluster_filter(settings)
    return [
        *(kuberay() if settings.kuberay else []),
        TemplatePanel(
            name="glance", title="Ray", template="glance.html",
            query=ResourceQuery(kind="ray.*"), prepare=glance, refresh=10.0, on_overview=True,
        ),
        TemplatePanel(
            name="clusters", title="Ray clusters", template="clusters.html",
            query=ResourceQuery(kind="ray.*"), prepare=clusters, filters=[which],
            refresh=10.0, width=12, empty="No cluster has been looked at yet.",
        ),
        TemplatePanel(
            name="jobs", title="Ray jobs", template="jobs.html",
            query=ResourceQuery(kind=JOB), prepare=jobs,
            filters=[which, STATUS, WORDS, "before"], refresh=2.0, width=12,
            empty="No job has been submitted yet.",
        ),
        TemplatePanel(
            name="timeline", title="Timeline of Ray jobs",
            template="timeline.html", query=ResourceQuery(kind=JOB), prepare=timeline,
            filters=[which, SPAN], refresh=10.0, width=12,
            empty="No job ran in this time.",
        ),
        TablePanel(
            name="nodes", title="Nodes",
            query=ResourceQuery(kind=NODE, limit=500),
            columns=[
                Column(title="Node", path="state.host"),
                Column(title="Cluster", path="namespace"),
                Column(title="State", path="status", format="status"),
                Column(title="CPU", path="sample.cpu", format="percent", spark="cpu"),
                Column(title="GPU", path="sample.gpu", format="percent"),
                Column(title="Memory", path="sample.memory", format="percent", spark="memory"),
                Column(title="Objects", path="sample.object_store", format="percent"),
                Column(title="Disk", path="sample.disk", format="percent"),
                Column(title="Why", path="state.reason"),
            ],
            filters=[which], width=12, height=6,
            empty="No node has been seen yet.",
        ),
        StatusPanel(
            name="applications", title="Serve applications",
            query=ResourceQuery(kind=APPLICATION), filters=[which], width=6,
            severities={"RUNNING": Severity.INFO, "DEPLOYING": Severity.WARN},
            empty="No Serve application is deployed.",
        ),
        EventsPanel(
            name="events", title="Changes",
            query=EventQuery(filter={"type": "ray.>"}, limit=15),
            filters=["severity"], width=6, empty="Nothing has happened yet.",
        ),
        TemplatePanel(
            name="job", title="Job", template="job.html",
            query=ResourceQuery(kind=JOB), prepare=functools.partial(job, settings),
            filters=[which, JOB_ID], refresh=2.0, width=12,
        ),
        LogPanel(
            name="job-log", title="Log",
            query=LogQuery(stream="job-logs", limit=500), filters=[which, JOB_ID, "text"],
            width=12,
        ),
    ]  # fmt: skip


def cluster_filter(settings: RaySettings) -> Filter:
    """How a cluster is chosen: from a list where none can come and go."""
    names = () if settings.kuberay else tuple(it.name for it in settings.clusters)
    return Filter(name="namespace", label="Cluster", choices=names, hint="all")


def kuberay() -> Sequence[Panel]:
    """The panels of KubeRay's resources."""
    return [
        TemplatePanel(
            name="rayjobs", title="RayJobs", template="rayjobs.html",
            query=ResourceQuery(kind=RAY_JOB), prepare=rayjobs, refresh=2.0, width=12, height=5,
            empty="There is no RayJob.",
        ),
        TemplatePanel(
            name="rayclusters", title="RayClusters", template="rayclusters.html",
            query=ResourceQuery(kind=RAY_CLUSTER), prepare=rayclusters, refresh=10.0, width=12,
            height=5, empty="There is no RayCluster.",
        ),
        StatusPanel(
            name="rayservices", title="RayServices",
            query=ResourceQuery(kind="ray.rayservice"), width=12, empty="There is no RayService.",
        ),
    ]  # fmt: skip


def pages(settings: RaySettings) -> Sequence[Page]:
    """The pages: what there is, and one job."""
    found = ["rayjobs", "rayclusters", "rayservices"] if settings.kuberay else []
    which = cluster_filter(settings)
    return [
        Page(
            name="main", title="Ray",
            panels=["clusters", "jobs", "timeline", PlacedPanel(panel="applications", width=4),
                    PlacedPanel(panel="events", width=8), *found, "nodes"],
            filters=[which, STATUS, WORDS], navigation=True,
        ),
        Page(name="job", title="Ray job", panels=["job", "job-log"]),
    ]  # fmt: skip


def address(page: str, **query: str) -> str:
    """The address of a page of ours."""
    chosen = {name: value for name, value in query.items() if value}
    return f"/dashboards/{page}" + (f"?{urlencode(chosen)}" if chosen else "")


def job_address(cluster: str, name: str) -> str:
    """The page of one job."""
    return address("ray.job", namespace=cluster, name=name)


async def glance(look: DataView, _asked: Mapping[str, str]) -> Mapping[str, Any]:
    """How the clusters and their jobs are, in four figures."""
    known = look.resources(ResourceQuery(kind=CLUSTER, limit=500))
    troubled = sum(it.severity >= Severity.WARN for it in known)
    statuses = Counter(it.status for it in look.resources(ResourceQuery(kind=JOB, limit=20_000)))
    clusters = "cluster" if len(known) == 1 else "clusters"
    # On whole minutes the link stays the same between frames.
    since = (now() - HOUR) // (60 * SECOND) * 60 * SECOND
    lost = {"type": f"{JOB}.failed", "since": format_time(since)}
    failed = await look.count(lost, limit=COUNTED)
    return {
        "figures": [
            {"value": failed, "more": "+" if failed >= COUNTED else "",
             "label": "failed, last hour", "link": f"/events?{urlencode(lost)}",
             "worry": failed and "bad"},
            {"value": statuses["RUNNING"], "label": "running",
             "link": address("ray", status="RUNNING")},
            {"value": statuses["PENDING"], "label": "waiting",
             "link": address("ray", status="PENDING")},
            {"value": troubled, "label": f"of {len(known):,} {clusters} in trouble",
             "link": address("ray"), "worry": troubled and "bad"},
        ],
        "simulated": any(it.state.get("simulated") for it in known),
    }  # fmt: skip


# Jobs


async def jobs(look: DataView, asked: Mapping[str, str]) -> Mapping[str, Any]:
    """Those that run or wait, as they are now, and a page of those that ended, from history."""
    cluster, text = asked.get("namespace", ""), asked.get("text", "").strip()
    status = asked.get("status", "").upper()
    before = int(it) if (it := asked.get("before", "")).isdecimal() and len(it) < 19 else None
    moment = now()
    current = [
        it
        for it in look.resources(ResourceQuery(kind=JOB, namespace=cluster, limit=2_000))
        if it.status in ("RUNNING", "PENDING") and says(it, text)
    ]
    shown = [it for it in current if not status or it.status == status]
    shown.sort(key=lambda it: (it.status != "RUNNING", -int(it.state.get("submitted") or 0)))
    ended: list[tuple[int, Event]] = []
    problem = ""
    if status not in ("RUNNING", "PENDING"):
        try:
            ended = await ends(look, cluster, status, text, before=before, limit=PER_PAGE + 1)
        except ValueError as error:
            problem = str(error)
    older = ended[PER_PAGE - 1][0] if len(ended) > PER_PAGE else None
    kept = {"namespace": cluster, "status": status, "text": text}
    counts = {
        "RUNNING": sum(1 for it in current if it.status == "RUNNING"),
        "PENDING": sum(1 for it in current if it.status == "PENDING"),
    }
    for name in ENDS:
        counts[name] = await look.count(narrowed(name, cluster, ""), limit=COUNTED)
    return {
        "current": [] if before is not None else [row(it.state, it.status, moment) for it in shown],
        "ended": [record_row(event, moment) for _, event in ended[:PER_PAGE]],
        "chips": [
            {
                "name": name,
                "severity": SEVERITIES.get(name, Severity.INFO).name,
                "count": counts[name],
                "more": name in ENDS and counts[name] >= COUNTED,
                "chosen": name == status,
                "link": address("ray", **{**kept, "status": "" if name == status else name}),
            }
            for name in STATUSES
            if counts[name] or name == status or name in ("RUNNING", "FAILED")
        ],
        "older": address("ray", **kept, before=str(older)) if older is not None else "",
        "newest": address("ray", **kept) if before is not None else "",
        "several": len({it.name for it in look.resources(ResourceQuery(kind=CLUSTER))}) > 1,
        "problem": problem,
    }


def says(resource: Resource, text: str) -> bool:
    """Whether a job has all the words of a search."""
    whole = f"{resource.name} {msgspec.json.encode(resource.state).decode()}".casefold()
    return all(word.strip('"*') in whole for word in text.casefold().split())


def narrowed(status: str, cluster: str, text: str) -> dict[str, str]:
    """The filter for ends with a status, in one cluster or in all, and with some words."""
    kind = ENDS[status]
    # Either leads by an index; both together would be looked for along one of them.
    found = {"type": kind}
    if cluster:
        found = {"origin": f"ray/{cluster}/{kind.rpartition('.')[2]}"}
    if text:
        found["text"] = text
    return found


async def ends(
    look: DataView, cluster: str, status: str, text: str, *, before: int | None = None, limit: int
) -> list[tuple[int, Event]]:
    """The last ends of jobs, newest first. Raises `ValueError` for a text that is none."""
    found: list[tuple[int, Event]] = []
    # One query a type: each follows its index from the newest on, however many there are.
    for one in [status] if status in ENDS else ENDS:
        found += await look.events(narrowed(one, cluster, text), limit=limit, before=before)
    found.sort(key=lambda it: -it[0])
    return found[:limit]


def data_of(event: Event) -> dict[str, Any]:
    """The data of an event of ours."""
    data = event.data
    if isinstance(data, msgspec.Raw):
        data = msgspec.json.decode(data)
    return data if isinstance(data, dict) else {}


def record_row(event: Event, moment: int) -> dict[str, Any]:
    """A job that ended, as its event tells."""
    data = data_of(event)
    return row(data, str(data.get("status") or event.type.rpartition(".")[2].upper()), moment)


def row(record: Mapping[str, Any], status: str, moment: int) -> dict[str, Any]:
    """A job in a line: the same of one that runs and of one long gone."""
    name, cluster = str(record.get("id", "")), str(record.get("cluster", ""))
    submitted, ended = record.get("submitted") or 0, record.get("ended")
    usual = record.get("usual")
    seconds = (((ended or moment) - submitted) / SECOND) if submitted else None
    share = seconds / usual if seconds is not None and usual else None
    overdue = share is not None and share > OVERDUE and ended is None
    return {
        "name": name,
        "link": job_address(cluster, name),
        "cluster": cluster,
        "status": status,
        "severity": (
            Severity.WARN if overdue or record.get("stuck")
            else SEVERITIES.get(status, Severity.INFO)
        ).name,
        "entrypoint": record.get("entrypoint", ""),
        "driver": bool(record.get("driver")),
        "submitted": submitted or None,
        "ended": ended,
        "seconds": seconds,
        "usual": usual,
        # A bar of twice the usual time, half of which a usual run fills.
        "bar": round(min(share / 2, 1.0) * 100, 1) if share is not None else None,
        "overdue": overdue,
        "reason": record.get("reason", ""),
        "message": record.get("message", "") if status == "PENDING" else "",
    }  # fmt: skip


async def rayjobs(look: DataView, asked: Mapping[str, str]) -> Mapping[str, Any]:
    """The RayJobs that there are, the newest first; each leads to the page of its job."""
    moment = now()
    found = list(look.resources(ResourceQuery(kind=RAY_JOB, limit=500)))
    found.sort(key=lambda it: -int(it.state.get("submitted") or 0))
    return {"rayjobs": [_rayjob(it, moment) for it in found]}


def _rayjob(it: Resource, moment: int) -> dict[str, Any]:
    state = it.state
    begun, ended = state.get("submitted"), state.get("ended")
    cluster, job_id = str(state.get("cluster", "")), str(state.get("id", ""))
    events = "/events?" + urlencode({"type": f"{RAY_JOB}.>", "subject": it.name})
    return {
        "name": it.name,
        "namespace": it.namespace,
        "status": it.status,
        "severity": it.severity.name,
        # Before it has an id it has no page.
        "link": job_address(cluster, job_id) if job_id else events,
        "cluster": cluster.partition(".")[2],
        "cluster_link": address("ray", namespace=cluster),
        "began": begun,
        "seconds": ((ended or moment) - begun) / SECOND
        if begun and (ended or state.get("deployment") not in DONE)
        else None,
        "failed": state.get("failed", 0),
        "retries": state.get("retries", 0),
        "reason": state.get("reason", ""),
    }


async def rayclusters(look: DataView, asked: Mapping[str, str]) -> Mapping[str, Any]:
    """The RayClusters that there are, those in trouble first."""
    found = list(look.resources(ResourceQuery(kind=RAY_CLUSTER, limit=500)))
    found.sort(key=lambda it: (-int(it.severity), it.namespace, it.name))
    return {
        "rayclusters": [
            {
                **it.state,
                "name": it.name,
                "namespace": it.namespace,
                "status": it.status,
                "severity": it.severity.name,
                "link": address("ray", namespace=str(it.state.get("cluster", ""))),
            }
            for it in found
        ]
    }


# Timeline


async def timeline(look: DataView, asked: Mapping[str, str]) -> Mapping[str, Any]:
    """Jobs of the last hours as bars, a row for each entrypoint."""
    cluster, span = asked.get("namespace", ""), asked.get("span", "")
    span = span if span in SPANS else "1h"
    last = now()
    first = last - SPANS[span] * HOUR
    records: list[tuple[Mapping[str, Any], str]] = [
        (it.state, it.status)
        for it in look.resources(ResourceQuery(kind=JOB, namespace=cluster, limit=2_000))
        if it.status in ("RUNNING", "PENDING")
    ]
    found = await ends(look, cluster, "", "", limit=DRAWN)
    cut = len(found) == DRAWN
    for _, event in found:
        data = data_of(event)
        if (data.get("ended") or event.time) >= first:
            records.append((data, str(data.get("status", ""))))
    rows = laid_out(records, first, last)
    return {
        "rows": rows[:ROWS],
        "more": len(rows) - ROWS if len(rows) > ROWS else 0,
        "cut": cut,
        "drawn": DRAWN,
        "width": WIDE,
        "ticks": [first + (last - first) * it // 4 for it in range(5)],
        "grid": [WIDE * it / 4 for it in range(1, 4)],
        "spans": [
            {"name": it, "chosen": it == span,
             "link": "/panels/ray.timeline?" + urlencode({"span": it} | (
                 {"namespace": cluster} if cluster else {}))}
            for it in SPANS
        ],
    }  # fmt: skip


def laid_out(
    records: Iterable[tuple[Mapping[str, Any], str]], first: int, last: int
) -> list[dict[str, Any]]:
    """Rows of bars: those of one entrypoint of one cluster share a row, and do not overlap in it
    but where there are too many at once."""
    grouped: dict[tuple[str, str], list[tuple[int, int, Mapping[str, Any], str]]] = {}
    for record, status in records:
        begin = int(record.get("submitted") or record.get("ended") or last)
        end = int(record.get("ended") or last)
        named = alike(str(record.get("entrypoint", ""))) or str(record.get("id", ""))
        grouped.setdefault((str(record.get("cluster", "")), named), []).append(
            (begin, max(end, begin), record, status)
        )
    rows: list[dict[str, Any]] = []
    across = max(last - first, 1)
    for (cluster, named), runs in grouped.items():
        runs.sort(key=lambda it: it[0])
        ends_of: list[int] = []
        bars = []
        for begin, end, record, status in runs:
            lane = next((at for at, free in enumerate(ends_of) if free <= begin), len(ends_of))
            if lane == len(ends_of) and lane < LANES:
                ends_of.append(end)
            lane = min(lane, LANES - 1)
            ends_of[lane] = max(ends_of[lane], end)
            x = max((begin - first) / across, 0.0) * WIDE
            x2 = min((end - first) / across, 1.0) * WIDE
            line = row(record, status, last)
            bars.append(
                {
                    **line,
                    "x": round(min(x, WIDE - THINNEST), 1),
                    "width": round(max(x2 - x, THINNEST), 1),
                    "y": lane * LANE + 1,
                    "height": LANE - 2,
                }
            )
        rows.append(
            {
                "cluster": cluster,
                "name": named,
                "bars": bars,
                "height": len(ends_of) * LANE,
                "failed": sum(1 for it in bars if it["status"] == "FAILED"),
                "newest": max(it[1] for it in runs),
            }
        )
    rows.sort(key=lambda it: (-it["newest"], str(it["name"])))
    return rows


# Clusters


async def clusters(look: DataView, asked: Mapping[str, str]) -> Mapping[str, Any]:
    """Every cluster with its use, nodes and demand; those in trouble first."""
    wanted = asked.get("namespace", "")
    found = [
        it
        for it in look.resources(ResourceQuery(kind=CLUSTER, limit=500))
        if not wanted or it.name == wanted
    ]
    found.sort(key=lambda it: (-int(it.severity), it.name))
    return {
        "clusters": [_cluster(look, it) for it in found],
        "simulated": [it.name for it in found if it.state.get("simulated")],
    }


def _cluster(look: DataView, it: Resource) -> dict[str, Any]:
    state = it.state
    usage = state.get("usage") or {}
    counts = state.get("jobs") or {}
    stale = it.status in ("down", "stale")
    return {
        "name": it.name,
        "link": address("ray", namespace=it.name),
        "status": it.status,
        "severity": it.severity.name,
        "stale": stale,
        "answered": state.get("answered") or None,
        "ray": state.get("ray", ""),
        "address": state.get("address", ""),
        "reason": state.get("reason", ""),
        "bars": [
            {
                "title": title,
                "used": usage[name][0],
                "total": usage[name][1],
                "format": how,
                "share": min(usage[name][0] / usage[name][1], 1.0),
                "width": round(min(usage[name][0] / usage[name][1], 1.0) * 100, 1),
                "full": usage[name][0] / usage[name][1] >= 0.9,
            }
            for name, title, how in BARS
            if name in usage and usage[name][1] > 0
        ],
        "nodes": state.get("nodes", 0),
        "dead": state.get("dead", 0),
        "starting": state.get("starting", 0),
        "start_failures": state.get("start_failures", 0),
        "autoscaler_error": state.get("autoscaler_error", ""),
        "waiting": state.get("waiting", 0),
        "demand": [
            {
                "count": one.get("count", 1),
                "what": ", ".join(
                    f"{amount:g} {name}" for name, amount in (one.get("resources") or {}).items()
                ),
                "group": one.get("group", ""),
            }
            for one in (state.get("demand") or [])[:4]
        ],
        "running": counts.get("RUNNING", 0),
        "pending": counts.get("PENDING", 0),
        "actors": (state.get("actors") or {}).get("ALIVE", 0),
        "restarting": (state.get("actors") or {}).get("RESTARTING", 0),
        "tasks": {
            name: count
            for name, count in (state.get("tasks") or {}).items()
            if name not in ("FINISHED", "FAILED", "NIL")
        },
        "applications": state.get("applications") or {},
        "gone": not look.latest(it, "nodes") and stale,
    }


# One job


async def job(settings: RaySettings, look: DataView, asked: Mapping[str, str]) -> Mapping[str, Any]:
    """One job: live where it is, else as history has it."""
    cluster, name = asked.get("namespace", ""), asked.get("name", "")
    if not cluster or not name:
        return {"job": None, "said": "Choose a job on the page Ray."}
    found = await look.events({"correlation": correlation(cluster, name)}, limit=100)
    live = look.resource(JOB, cluster, name)
    told = [(event, data_of(event)) for _, event in found]
    runs = [data.get("submitted") for event, data in told if event.type.startswith(f"{JOB}.")]
    newest = live.state.get("submitted") if live is not None else next(iter(runs), None)
    this = [
        (event, data)
        for event, data in told
        if data.get("submitted") == newest or event.type.startswith(f"{RAY_JOB}.")
    ]
    end = next((data for event, data in this if event.type in ENDS.values()), {})
    if live is None and not this:
        return {
            "job": None,
            "said": f"Nothing is known of a job {name} of {cluster}; it may be older than what"
            " history keeps.",
        }
    record: dict[str, Any] = dict(end) or dict(this[0][1] if this else {})
    status = str(record.get("status", ""))
    if live is not None and not end:
        record, status = dict(live.state), live.status
    shape = end.get("shape") or {}
    place = next((it for it in settings.clusters if it.name == cluster), None)
    # A cluster of KubeRay's is called by its namespace and its name.
    namespace = place.kubernetes_namespace if place is not None else cluster.partition(".")[0]
    theirs = pods(look, namespace, cluster.partition(".")[2] if place is None else "")
    return {
        "simulated": place is not None and place.simulated,
        "pods": [
            {
                "name": it.name,
                "status": it.status,
                "severity": it.severity.name,
                "part": it.state["labels"].get("ray.io/node-type", ""),
                "link": address("kubernetes.pod", namespace=namespace, name=it.name),
            }
            for it in theirs[:PODS]
        ],
        "more_pods": max(len(theirs) - PODS, 0),
        "all_pods": address(
            "kubernetes.pods",
            namespace=namespace,
            label=f"{POD_OF}={cluster.partition('.')[2]}",
        ),
        "job": row(record, status, now()),
        "record": {**EMPTY, **record},
        "live": live is not None and not end,
        "reason": record.get("reason", ""),
        "log": end.get("log", ""),
        "log_note": end.get("log_note", ""),
        "shape": {"count": 0, "dead": 0, "ray": "", "demand": 0, **shape},
        "shape_nodes": [
            {
                "name": it.get("name", ""),
                "head": it.get("head", False),
                "cpu": (it.get("total") or {}).get("CPU"),
                "gpu": (it.get("total") or {}).get("GPU"),
                "memory": (it.get("total") or {}).get("memory"),
                "pod": pod(look, namespace, str(it.get("name", ""))),
            }
            for it in shape.get("nodes") or []
        ],
        "steps": [
            {
                "of": "RayJob" if event.type.startswith(f"{RAY_JOB}.") else "",
                "what": event.type.rpartition(".")[2],
                "time": event.time,
                "severity": event.severity.name,
                "reason": data.get("reason", ""),
            }
            for event, data in sorted(this, key=lambda it: it[0].time)
        ],
        "earlier": len({it for it in runs if it != newest}),
        "events": "/events?" + urlencode({"correlation": correlation(cluster, name)}),
        "pod": pod(look, namespace, str(record.get("node", ""))),
        "metadata": record.get("metadata") or {},
        "runtime_env": msgspec.json.format(
            msgspec.json.encode(record.get("runtime_env") or {}), indent=2
        ).decode()
        if record.get("runtime_env")
        else "",
    }


def pods(look: DataView, namespace: str, raycluster: str) -> list[Resource]:
    """The pods of a RayCluster that there are now, its head first, where the Kubernetes plugin
    watches them."""
    if not namespace or not raycluster:
        return []
    found = [
        it
        for it in look.resources(
            ResourceQuery(kind="kubernetes.pod", namespace=namespace, limit=5_000)
        )
        if (it.state.get("labels") or {}).get(POD_OF) == raycluster
    ]
    found.sort(key=lambda it: (it.state["labels"].get("ray.io/node-type") != "head", it.name))
    return found


def pod(look: DataView, namespace: str, host: str) -> str:
    """The page of the pod that a node is, where the Kubernetes plugin knows it."""
    if not namespace or not host or look.resource("kubernetes.pod", namespace, host) is None:
        return ""
    return address("kubernetes.pod", namespace=namespace, name=host)
