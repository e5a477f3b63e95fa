"""Almenara is killed while it watches a cluster, and what it then shows is what there is."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from support.api_server import ApiServer
from support.application import Almenara
from support.servers import wait_until

WITHIN = 10.0
"""Seconds that a ghost may be seen; the machine of the tests may be slow besides."""
PODS = 45


def shown(almenara: Almenara, kind: str = "kubernetes.pod") -> dict[str, str]:
    """The status of each pod that is there, by name."""
    resources = almenara.get(f"/api/resources?kind={kind}")
    return {entry["name"]: entry["status"] for entry in resources if not entry["deleted"]}


def listed(server: ApiServer, namespace: str) -> dict[str, str]:
    items = server.send("GET", f"/api/v1/namespaces/{namespace}/pods")["items"]
    return {
        each["metadata"]["name"]: each["status"].get("reason") or each["status"]["phase"]
        for each in items
    }


def test_kill_under_churn_misses_no_change(
    api_server: ApiServer, namespace: str, tmp_path: Path
) -> None:
    other = api_server.namespace(f"{namespace}-left")
    clusters = [{"kubeconfig": str(api_server.admin_kubeconfig), "namespaces": [namespace, other]}]
    plugin = "plugins__kubernetes__"
    more = {f"{plugin}clusters": json.dumps(clusters), f"{plugin}kinds": '["pod", "service"]'}
    pods = [api_server.pod(namespace, f"pod-{number}") for number in range(PODS)]
    api_server.pod(other, "elsewhere")
    service = {
        "apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": 80}]},
        "metadata": {"namespace": namespace, "name": "web"},
    }  # fmt: skip
    api_server.create(service)

    def churn(number: int) -> None:
        if number % 3 == 0:
            api_server.delete(pods[number])
        elif number % 3 == 1:
            api_server.patch_status(pods[number], {"phase": "Failed", "reason": f"Why{number}"})
        api_server.pod(namespace, f"new-{number}")

    with Almenara(tmp_path / "almenara", "nats://127.0.0.1:9", **more) as almenara:

        def agrees() -> bool:
            return shown(almenara) == listed(api_server, namespace) | listed(api_server, other)

        wait_until(agrees, "all pods", 30)
        wait_until(lambda: "web" in shown(almenara, "kubernetes.service"), "the service")
        # At once, with no time to note down anything.
        almenara.kill()
        for each in (*pods[: PODS // 3], service):
            api_server.delete(each)
        # The configuration leaves out a namespace as well: what was in there is watched no more.
        clusters[0]["namespaces"] = [namespace]
        almenara.environment[f"ALMENARA_{plugin}clusters".upper()] = json.dumps(clusters)
        almenara.start()
        started = time.monotonic()

        def without_ghosts() -> bool:
            return shown(almenara) == listed(api_server, namespace) and not shown(
                almenara, "kubernetes.service"
            )

        wait_until(without_ghosts, "no ghosts", WITHIN + 110)
        print(f"no ghosts {time.monotonic() - started:.1f} s after the start")
        # Killed in the middle of changes, it has missed nothing of them either.
        with ThreadPoolExecutor(4) as pool:
            changes = [pool.submit(churn, number) for number in range(PODS // 3, PODS)]
            almenara.kill()
            almenara.start()
            for change in changes:
                change.result()
        wait_until(without_ghosts, "the same state as a fresh list", 30)
