"""The alert rules about Ray, and which resources depend on which."""

from typing import Final

from almenara.hookspecs import AlertRule, Condition, EventCondition, ResourceCondition, ResourceLink
from almenara_ray.kinds import APPLICATION, CLUSTER, JOB, NODE, RAY_JOB

RULES: Final = (
    AlertRule(
        name="ray-job-failed",
        when=Condition(
            events=EventCondition(types=[f"{JOB}.failed", f"{RAY_JOB}.failed"], within=3600.0)
        ),
        group_by=["origin", "subject"],
        severity="ERROR",
        annotations={
            "summary": "Ray job {{ subject }} failed",
            "description": "{{ data.reason|default(data.message)|default('') }}",
        },
    ),
    AlertRule(
        name="ray-cluster-unreachable",
        when=Condition(resource=ResourceCondition(kind=CLUSTER, severity="ERROR")),
        for_=60.0,
        severity="ERROR",
        annotations={"summary": "Ray cluster {{ name }} is {{ status }}"},
    ),
    AlertRule(
        name="ray-application-unhealthy",
        when=Condition(resource=ResourceCondition(kind=APPLICATION, severity="ERROR")),
        for_=120.0,
        severity="ERROR",
        annotations={"summary": "Serve application {{ name }} is {{ status }}"},
    ),
)
LINKS: Final = tuple(
    ResourceLink(kind=kind, parent=CLUSTER, name="namespace") for kind in (JOB, NODE, APPLICATION)
)
