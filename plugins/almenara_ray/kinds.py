"""Kinds of resources, types of events and severities of the Ray plugin."""

from collections.abc import Mapping
from typing import Final

from almenara.signals import Severity
from almenara_ray.models import LOST

JOB: Final = "ray.job"
CLUSTER: Final = "ray.cluster"
NODE: Final = "ray.node"
APPLICATION: Final = "ray.application"
ENTRYPOINT: Final = "ray.entrypoint"
RAY_JOB: Final = "ray.rayjob"
RAY_CLUSTER: Final = "ray.raycluster"
RAY_SERVICE: Final = "ray.rayservice"
RAY_CRON_JOB: Final = "ray.raycronjob"
FINAL_DEPLOYMENTS: Final = ("Complete", "Failed", "ValidationFailed")
"""Deployment statuses of a RayJob that do not change any more."""
JOB_STATUSES: Final[Mapping[str, Severity]] = {
    "FAILED": Severity.ERROR,
    LOST: Severity.WARN,
    "STOPPED": Severity.INFO,
}
"""Severity of a job's status; INFO for any other."""
CLUSTER_STATUSES: Final[Mapping[str, Severity]] = {
    "up": Severity.INFO,
    "partial": Severity.WARN,
    "stale": Severity.WARN,
    "down": Severity.ERROR,
}
"""`partial`: some endpoints fail; `stale`: one request failed; `down`: several in a row failed."""
NODE_STATUSES: Final[Mapping[str, Severity]] = {
    "alive": Severity.INFO,
    "spilling": Severity.WARN,
    "dead": Severity.ERROR,
}
APPLICATION_STATUSES: Final[Mapping[str, Severity]] = {
    "DEPLOY_FAILED": Severity.ERROR,
    "UNHEALTHY": Severity.ERROR,
}
"""Severity of a Serve application's status; INFO for any other."""
END_EVENTS: Final[Mapping[str, str]] = {
    "SUCCEEDED": f"{JOB}.succeeded",
    "FAILED": f"{JOB}.failed",
    "STOPPED": f"{JOB}.stopped",
    LOST: f"{JOB}.lost",
}
"""The type of the event of a job's end, by the job's status."""


def correlation_id(cluster: str, job: str) -> str:
    """Return the correlation id that all events of a job share."""
    return f"ray/{cluster}/{job}"
