"""What the plugin knows of a Ray cluster: jobs, nodes, status and Serve applications.

The structs have no behaviour besides derived values; `mapping` makes them from the answers of a
dashboard. `Job` and `SavedState` are stored between runs, so that their fields keep their names.
"""

from typing import Any, Final

import msgspec

from almenara.units import SECOND
from almenara_ray.durations import Durations

LOST: Final = "LOST"
"""The status of a job that its head forgot before it ended; Ray has no such status."""
FINISHED: Final = frozenset(("SUCCEEDED", "FAILED", "STOPPED"))
UNFINISHED: Final = frozenset(("PENDING", "RUNNING"))


class Job(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A job, with secrets redacted."""

    id: str
    """Submission id; for a driver that was not submitted as a job, Ray's job id."""
    status: str
    submitted: int
    """Microseconds since the epoch; 0 where Ray does not report it."""
    ended: int | None = None
    """Microseconds since the epoch."""
    driver: bool = False
    """Whether it is a driver that was started by hand and not submitted."""
    entrypoint: str = ""
    reason: str = ""
    """Why it failed, in one line."""
    message: str = ""
    """The end of Ray's message, which has the end of the log of a job that failed."""
    error_type: str = ""
    exit_code: int | None = None
    job_id: str = ""
    """Ray's job id, which its tasks and actors refer to."""
    node_id: str = ""
    """Node of its driver."""
    metadata: dict[str, Any] = {}
    runtime_env: dict[str, Any] = {}

    @property
    def key(self) -> str:
        """Identifies one run of a job: an id can be used again after a job was deleted, or after
        its head restarted."""
        return f"{self.id}@{self.submitted}"

    @property
    def seconds(self) -> float | None:
        """Seconds from submission to end."""
        if self.ended is None or not self.submitted:
            return None
        return max(self.ended - self.submitted, 0) / SECOND


class SavedState(msgspec.Struct, kw_only=True):
    """What is stored of a cluster between runs of Almenara."""

    address: str = ""
    """Address of its dashboard, where KubeRay provided it."""
    token_secret: str = ""
    """Name of the Secret with its token, where its RayCluster requires one."""
    session: str = ""
    head: str = ""
    unfinished: dict[str, Job] = {}
    """Jobs that have not ended, by key."""
    running: list[str] = []
    """Keys of unfinished jobs that were published as running."""
    stuck: list[str] = []
    """Keys of unfinished jobs that were published as pending for too long."""
    horizon: int = 0
    """The newest end that was published, in microseconds since the epoch."""
    recent: dict[str, int] = {}
    """Ends that were published, near the horizon, by key."""
    down_since: int = 0
    """When it became unreachable, in microseconds since the epoch; 0 while it answers."""
    applications: dict[str, str] = {}
    """Published status of each Serve application, by name."""
    durations: Durations = msgspec.field(default_factory=Durations)


class Node(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A machine or pod of a cluster."""

    id: str
    name: str = ""
    """Its host name; under KubeRay the name of its pod."""
    head: bool = False
    alive: bool = True
    reason: str = ""
    """Why it is dead, as Ray reports it."""
    total: dict[str, float] = {}
    """Resources by name: `CPU`, `GPU`, `memory` and `object_store_memory` (bytes), others."""
    cpu: float | None = None
    """Share of its processors in use."""
    memory_used: float | None = None
    """Bytes."""
    memory_total: float | None = None
    object_used: float | None = None
    """Bytes in its object store."""
    object_total: float | None = None
    spilled: float | None = None
    """Bytes of objects written to disk so far."""
    disk: float | None = None
    """Used share of its fullest disk."""
    gpus: list[dict[str, Any]] = []
    """`name`, `use` (share), `memory_used` and `memory_total` (bytes)."""

    @property
    def short_id(self) -> str:
        """The start of its id, by which its resource is named."""
        return self.id[:12]

    @property
    def host(self) -> str:
        """Its name, or the start of its id while the name is unknown."""
        return self.name or self.short_id


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """Tasks, actors or placement groups that wait for resources."""

    resources: dict[str, float]
    count: int
    group: str = ""
    """Strategy of a placement group; empty for tasks and actors."""


class ClusterStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Usage, demand and autoscaler of a cluster."""

    usage: dict[str, tuple[float, float]] = {}
    """Used and total amount of each resource."""
    demand: list[Demand] | None = None
    """What waits for resources; None while unknown, as are the other numbers."""
    starting: int | None = None
    """Nodes that the autoscaler has requested."""
    failed: int | None = None
    """Nodes that recently failed to start."""
    error: str = ""
    """Error of the autoscaler."""

    @property
    def waiting(self) -> int | None:
        """How many tasks, actors and placement groups wait for resources."""
        return None if self.demand is None else sum(demand.count for demand in self.demand)


class Application(msgspec.Struct, frozen=True, kw_only=True):
    """A Serve application with its deployments."""

    name: str
    status: str
    message: str = ""
    route: str = ""
    deployments: list[dict[str, Any]] = []
    """`name`, `status`, `message`, `replicas` (running) and `target`."""


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """Version and session of a Ray head."""

    ray: str = ""
    session: str = ""
    """Changes with each start of the head; empty where Ray is too old to report it."""
