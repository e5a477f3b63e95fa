"""The alert rules about clusters, and which resources depend on which."""

from typing import Final

from almenara.hookspecs import AlertRule, Condition, EventCondition, ResourceCondition, ResourceLink
from almenara_kubernetes.kinds import (
    CERTIFICATES,
    DAEMON_SETS,
    DEPLOYMENTS,
    NODES,
    PODS,
    STATEFUL_SETS,
)

DOCS: Final = "https://kubernetes.io/docs/tasks/debug"
NODE_NAME: Final = "{{ namespace ~ '/' if namespace else '' }}{{ name }}"
"""The namespace of a node is its cluster, where that has a name."""

RULES: Final = (
    AlertRule(
        name="kubernetes-pod-crash-looping",
        when=Condition(
            resource=ResourceCondition(
                kind=PODS.kind, status=["CrashLoopBackOff", "Init:CrashLoopBackOff"]
            )
        ),
        # The kubelet restarts a crashing container after 10, 20, 40 … seconds: the status comes and
        # goes, and a pod that starts once is no reason to wake anyone.
        for_=60.0,
        keep_firing_for=300.0,
        severity="ERROR",
        annotations={
            "summary": "Pod {{ namespace }}/{{ name }} is crash-looping after"
            " {{ state.restarts|default(0) }} restart{{ '' if state.restarts == 1 else 's' }}",
        },
        runbook=f"{DOCS}/debug-application/debug-pods/",
    ),
    AlertRule(
        name="kubernetes-workload-stalled",
        when=Condition(
            resource=ResourceCondition(kind="kubernetes.*", status=["Stalled", "Unavailable"])
        ),
        for_=300.0,
        severity="ERROR",
        annotations={"summary": "{{ namespace }}/{{ name }} is {{ status|lower }}"},
        runbook=f"{DOCS}/debug-application/",
    ),
    AlertRule(
        name="kubernetes-node-not-ready",
        when=Condition(
            resource=ResourceCondition(
                kind=NODES.kind, status=["NotReady", "NotReady,*", "Unknown", "Unknown,*"]
            )
        ),
        for_=60.0,
        severity="ERROR",
        annotations={"summary": f"Node {NODE_NAME} is {{{{ status }}}}"},
        runbook=f"{DOCS}/debug-cluster/",
    ),
    AlertRule(
        name="kubernetes-node-disk-full",
        when=Condition(
            resource=ResourceCondition(kind=NODES.kind, field="pressures", equals="DiskPressure")
        ),
        for_=60.0,
        severity="ERROR",
        annotations={"summary": f"The disk of node {NODE_NAME} is almost full (DiskPressure)"},
    ),
    AlertRule(
        name="kubernetes-job-failed",
        when=Condition(events=EventCondition(types=["kubernetes.job.failed"], within=3600.0)),
        group_by=["origin", "namespace", "subject"],
        # The subject names the kind: `job/shop/backup`.
        annotations={"summary": "{{ subject|capitalize }} failed"},
    ),
    AlertRule(
        name="kubernetes-certificate-expires",
        when=Condition(resource=ResourceCondition(kind=CERTIFICATES.kind, severity="WARN")),
        for_=3600.0,
        annotations={"summary": "Certificate {{ namespace }}/{{ name }} is {{ status }}"},
    ),
)
LINKS: Final = (
    ResourceLink(kind=PODS.kind, parent=NODES.kind, name="node", namespace="cluster"),
    *(
        ResourceLink(
            kind=PODS.kind,
            parent=kind.kind,
            name="workload",
            namespace="namespace",
            prefix=f"{kind.api_kind}/",
        )
        for kind in (DEPLOYMENTS, STATEFUL_SETS, DAEMON_SETS)
    ),
)
