"""KubeRay's custom resources on a real API server, where the tests play the operator.

The fields of the statuses are those that KubeRay 1.5 publishes, `ray.io/v1`.
"""

from typing import Any

from support.api_server import ApiError, ApiServer
from support.servers import wait_until

TEXT, NUMBER = {"type": "string"}, {"type": "integer"}
TIME = {"type": "string", "format": "date-time"}
ANY = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
STATUSES: dict[str, dict[str, Any]] = {
    "RayCluster": {
        "state": TEXT, "reason": TEXT, "desiredWorkerReplicas": NUMBER,
        "availableWorkerReplicas": NUMBER, "readyWorkerReplicas": NUMBER,
        "head": {"type": "object", "properties": {"serviceName": TEXT, "podName": TEXT,
                                                  "podIP": TEXT, "serviceIP": TEXT}},
        "conditions": {"type": "array", "items": ANY},
    },
    "RayJob": {
        "jobId": TEXT, "rayClusterName": TEXT, "dashboardURL": TEXT, "jobStatus": TEXT,
        "jobDeploymentStatus": TEXT, "reason": TEXT, "message": TEXT, "startTime": TIME,
        "endTime": TIME, "succeeded": NUMBER, "failed": NUMBER,
    },
    "RayService": {
        "serviceStatus": TEXT, "numServeEndpoints": NUMBER,
        "activeServiceStatus": ANY, "pendingServiceStatus": ANY,
        "conditions": {"type": "array", "items": ANY},
    },
    "RayCronJob": {"lastScheduleTime": TIME},
}  # fmt: skip
"""The fields of the statuses as KubeRay publishes them."""


def make_definition(kind: str) -> dict[str, Any]:
    plural = f"{kind.lower()}s"
    schema = {
        "type": "object",
        "properties": {"spec": ANY, "status": {"type": "object", "properties": STATUSES[kind]}},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.ray.io"},
        "spec": {
            "group": "ray.io",
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "versions": [
                {
                    "name": "v1", "served": True, "storage": True, "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }  # fmt: skip


def make_object(kind: str, namespace: str, name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "ray.io/v1", "kind": kind,
        "metadata": {"namespace": namespace, "name": name}, "spec": spec,
    }  # fmt: skip


def install(server: ApiServer) -> None:
    """Create the custom resource definitions, and return once they are served."""
    for kind in STATUSES:
        server.create(make_definition(kind))

    def served() -> bool:
        # A resource is served a moment after its definition was created.
        try:
            for kind in STATUSES:
                server.send("GET", f"/apis/ray.io/v1/{kind.lower()}s")
        except ApiError:
            return False
        return True

    wait_until(served, "the custom resources of KubeRay")
