"""The panels and pages of the plugin; what they display is in `views`."""

import functools
from collections.abc import Sequence
from typing import Final

from almenara.config import PlacedPanel
from almenara.hookspecs import (
    Column,
    EventQuery,
    EventsPanel,
    Filter,
    Format,
    LogPanel,
    LogQuery,
    Marks,
    Page,
    Panel,
    ResourceQuery,
    SampleQuery,
    SeriesPanel,
    StatusPanel,
    TablePanel,
    TemplatePanel,
)
from almenara.signals import Severity
from almenara_ray.kinds import (
    APPLICATION,
    CLUSTER,
    ENTRYPOINT,
    JOB,
    NODE,
    RAY_CLUSTER,
    RAY_CRON_JOB,
    RAY_JOB,
    RAY_SERVICE,
)
from almenara_ray.settings import RaySettings
from almenara_ray.views.clusters import prepare_clusters, prepare_overview
from almenara_ray.views.job_page import prepare_job
from almenara_ray.views.jobs import STATUSES, prepare_jobs
from almenara_ray.views.kuberay import prepare_rayclusters, prepare_rayjobs
from almenara_ray.views.timeline import SPANS, prepare_timeline

STATUS: Final = Filter(name="status", label="Status", choices=STATUSES)
TEXT: Final = Filter(name="text", label="Search text", hint="in jobs and their reasons")
SPAN: Final = Filter(name="span", label="Hours", choices=tuple(SPANS))
JOB_NAME: Final = Filter(name="name", label="Job")
CHARTS: Final[Sequence[tuple[str, str, str, str, Format]]] = (
    ("cluster-cpu", "CPU used by cluster", CLUSTER, "cpu", "percent"),
    ("cluster-gpu", "GPU used by cluster", CLUSTER, "gpu", "percent"),
    ("cluster-memory", "Memory used by cluster", CLUSTER, "memory", "percent"),
    ("running", "Running jobs", CLUSTER, "running", "number"),
    ("queue", "Pending jobs", CLUSTER, "pending", "number"),
    ("demand", "Waiting tasks and actors", CLUSTER, "waiting", "number"),
    ("node-cpu", "CPU of nodes", NODE, "cpu", "percent"),
    ("node-object-store", "Object store of nodes", NODE, "object_store", "percent"),
    ("durations", "Duration of jobs by entrypoint", ENTRYPOINT, "duration", "seconds"),
)
"""Name, title, kind and metric of each chart, and how its values are written."""
MARKS: Final = (Marks(title="Job failures", filter={"type": f"{JOB}.failed"}),)
KUBERAY_PANELS: Final = ("rayjobs", "rayclusters", "rayservices", "raycronjobs")


def list_panels(settings: RaySettings) -> Sequence[Panel]:
    """Return the panels of the plugin."""
    cluster = make_cluster_filter(settings)
    return [
        *(list_kuberay_panels() if settings.kuberay else []),
        TemplatePanel(
            name="overview", title="Ray", template="overview.html",
            query=ResourceQuery(kind="ray.*"), prepare=prepare_overview, refresh=10.0,
            on_overview=True,
        ),
        TemplatePanel(
            name="clusters", title="Ray clusters", template="clusters.html",
            query=ResourceQuery(kind="ray.*"), prepare=prepare_clusters, filters=[cluster],
            refresh=10.0, width=12, empty="No Ray cluster yet.",
        ),
        TemplatePanel(
            name="jobs", title="Ray jobs", template="jobs.html",
            query=ResourceQuery(kind=JOB), prepare=prepare_jobs,
            filters=[cluster, STATUS, TEXT, "before"], refresh=2.0, width=12,
            empty="No matching jobs.",
        ),
        TemplatePanel(
            name="timeline", title="Timeline of Ray jobs", template="timeline.html",
            query=ResourceQuery(kind=JOB), prepare=prepare_timeline, filters=[cluster, SPAN],
            refresh=10.0, width=12, empty="No jobs in this time range.",
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
                Column(title="Object store", path="sample.object_store", format="percent"),
                Column(title="Disk", path="sample.disk", format="percent"),
                Column(title="Message", path="state.reason"),
            ],
            filters=[cluster], width=12, height=6, empty="No nodes yet.",
        ),
        *(
            SeriesPanel(
                name=name, title=title, query=SampleQuery(kind=kind, metric=metric),
                format=value_format, filters=[cluster], marks=MARKS, width=4,
            )
            for name, title, kind, metric, value_format in CHARTS
        ),
        StatusPanel(
            name="applications", title="Serve applications",
            query=ResourceQuery(kind=APPLICATION), filters=[cluster], width=6,
            severities={"RUNNING": Severity.INFO, "DEPLOYING": Severity.WARN},
            empty="No Serve application is deployed.",
        ),
        EventsPanel(
            name="events", title="Changes",
            query=EventQuery(filter={"type": "ray.>"}, limit=15),
            filters=["severity"], width=6, empty="No events yet.",
        ),
        TemplatePanel(
            name="job", title="Job", template="job.html", query=ResourceQuery(kind=JOB),
            prepare=functools.partial(prepare_job, settings), filters=[cluster, JOB_NAME],
            refresh=2.0, width=12,
        ),
        TemplatePanel(
            name="job-details", title="Details", template="job_details.html",
            query=ResourceQuery(kind=JOB), prepare=functools.partial(prepare_job, settings),
            filters=[cluster, JOB_NAME], refresh=2.0, width=12, empty="No details.",
        ),
        LogPanel(
            name="job-log", title="Log", query=LogQuery(stream="job-logs", limit=500),
            filters=[cluster, JOB_NAME, "text"], width=12,
        ),
    ]  # fmt: skip


def list_kuberay_panels() -> Sequence[Panel]:
    """Return the panels of KubeRay's custom resources."""
    return [
        TemplatePanel(
            name="rayjobs", title="RayJobs", template="rayjobs.html",
            query=ResourceQuery(kind=RAY_JOB), prepare=prepare_rayjobs, refresh=2.0, width=12,
            height=5, empty="No RayJobs.",
        ),
        TemplatePanel(
            name="rayclusters", title="RayClusters", template="rayclusters.html",
            query=ResourceQuery(kind=RAY_CLUSTER), prepare=prepare_rayclusters, refresh=10.0,
            width=12, height=5, empty="No RayClusters.",
        ),
        TablePanel(
            name="rayservices", title="RayServices",
            query=ResourceQuery(kind=RAY_SERVICE, limit=500),
            columns=[
                Column(title="RayService", path="name"),
                Column(title="Namespace", path="namespace"),
                Column(title="State", path="status", format="status"),
                Column(title="Endpoints", path="state.endpoints", format="number"),
                Column(title="Active cluster", path="state.active_cluster"),
                Column(title="Pending cluster", path="state.pending_cluster"),
                Column(title="Traffic to pending, %", path="state.traffic_percent",
                       format="number"),
                Column(title="Message", path="state.reason"),
            ],
            width=12, height=5, empty="No RayServices.",
        ),
        TablePanel(
            name="raycronjobs", title="RayCronJobs",
            query=ResourceQuery(kind=RAY_CRON_JOB, limit=500),
            columns=[
                Column(title="RayCronJob", path="name"),
                Column(title="Namespace", path="namespace"),
                Column(title="State", path="status", format="status"),
                Column(title="Schedule", path="state.schedule"),
                Column(title="Last schedule", path="state.last_schedule", format="time"),
            ],
            width=12, height=5, empty="No RayCronJobs.",
        ),
    ]  # fmt: skip


def list_pages(settings: RaySettings) -> Sequence[Page]:
    """Return the pages of the plugin: all of Ray, and one job."""
    kuberay_panels = KUBERAY_PANELS if settings.kuberay else ()
    return [
        Page(
            name="main", title="Ray",
            panels=["clusters", "jobs", "timeline", PlacedPanel(panel="applications", width=4),
                    PlacedPanel(panel="events", width=8), *kuberay_panels,
                    *(name for name, *_ in CHARTS), "nodes"],
            filters=[make_cluster_filter(settings), STATUS, TEXT], navigation=True,
        ),
        Page(name="job", title="Ray job", panels=["job", "job-log", "job-details"]),
    ]  # fmt: skip


def make_cluster_filter(settings: RaySettings) -> Filter:
    """Return the filter of the cluster: a list of names, unless KubeRay's clusters come and go."""
    names = () if settings.kuberay else tuple(cluster.name for cluster in settings.clusters)
    return Filter(name="namespace", label="Cluster", choices=names, hint="all")
