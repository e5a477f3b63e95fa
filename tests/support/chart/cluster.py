"""A namespace of a real API server, and Helm that works in it."""

import contextlib
from pathlib import Path

import yaml

from support.api_server import ApiError, ApiServer
from support.chart.engine import Tree
from support.chart.release import Helm
from support.servers import wait_until


class Cluster:
    """A namespace of the API server, and Helm that works in it."""

    def __init__(self, programs: Path, server: ApiServer, namespace: str) -> None:
        self.server, self.namespace = server, namespace
        self.helm = Helm(programs / "helm", server, namespace)

    def get(self, api: str, kind: str, name: str, namespace: str | None = None) -> Tree:
        result: Tree = self.server.send(
            "GET", self.server.path(api, kind, namespace or self.namespace, name)
        )
        return result

    def exists(self, manifest: Tree) -> bool:
        metadata = manifest["metadata"]
        try:
            self.get(
                manifest["apiVersion"],
                manifest["kind"],
                metadata["name"],
                metadata.get("namespace"),
            )
        except ApiError as error:
            assert error.status == 404, error
            return False
        return True


def define_gateway_api(programs: Path, server: ApiServer) -> None:
    kinds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    for file in sorted((programs / "gateway").glob("*.yaml")):
        for definition in yaml.load_all(file.read_text("utf-8"), yaml.CSafeLoader):
            if definition and definition["kind"] == "CustomResourceDefinition":
                with contextlib.suppress(ApiError):
                    server.send("POST", kinds, definition)

    def served() -> bool:
        with contextlib.suppress(ApiError):
            result = server.send("GET", "/apis/gateway.networking.k8s.io/v1")["resources"]
            return {"httproutes", "gateways", "gatewayclasses"} <= {each["name"] for each in result}
        return False

    wait_until(served, "the Gateway API")
