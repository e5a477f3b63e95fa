"""The cluster as the one who says who somebody is and what they may see: a real API server."""

import asyncio
import re
import time
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from apiserver import ApiServer
from app import Almenara
from servers import wait_until

pytestmark = pytest.mark.anyio

REVIEWS = [
    {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
    {
        "apiGroups": ["authorization.k8s.io"],
        "resources": ["subjectaccessreviews"],
        "verbs": ["create"],
    },
]
LIST_PODS = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]
WATCH = [
    {"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list", "watch"]},
]


def running(folder: Path, server: ApiServer, namespace: str) -> Almenara:
    watcher = server.service_account(namespace, "almenara")
    server.allow(f"{namespace}/almenara", [*REVIEWS, *WATCH], None, name="almenara")
    config = server.kubeconfig(token=watcher, path=folder / "kubeconfig")
    (folder / "ca.crt").write_bytes(Path(server.ca).read_bytes())
    almenara = Almenara(folder / "a", "nats://127.0.0.1:1")
    almenara.environment |= {
        "ALMENARA_AUTH__MODE": "kubernetes",
        "ALMENARA_AUTH__AUTHORIZATION": "kubernetes",
        "ALMENARA_AUTH__KUBERNETES__SERVER": server.url,
        "ALMENARA_AUTH__KUBERNETES__CA": str(folder / "ca.crt"),
        "ALMENARA_AUTH__KUBERNETES__TOKEN": watcher,
        "ALMENARA_AUTH__KUBERNETES__RECHECK": "1",
        "ALMENARA_AUTH__KUBERNETES__RIGHTS": "1",
        "ALMENARA_PLUGINS__KUBERNETES__CLUSTERS": f"[{{kubeconfig: {config}}}]",
    }
    return almenara


async def test_somebody_sees_the_namespaces_they_may_list_and_loses_them_within_5_seconds(
    tmp_path: Path, api_server: ApiServer, namespace: str
) -> None:
    other = f"{namespace}-other"
    api_server.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other}})
    api_server.pod(namespace, "ours")
    api_server.pod(other, "theirs")
    token = api_server.service_account(namespace, "viewer")
    api_server.allow(f"{namespace}/viewer", LIST_PODS, namespace)
    with running(tmp_path, api_server, namespace) as almenara:
        headers = {"authorization": f"Bearer {token}"}

        def pods() -> set[str]:
            found = httpx.get(f"{almenara.url}/api/resources?kind=kubernetes.pod", headers=headers)
            return {it["name"] for it in found.json()} if found.status_code == 200 else set()

        wait_until(lambda: "ours" in pods(), "our pod")
        assert "theirs" not in pods()
        everything = httpx.get(f"{almenara.url}/api/resources", headers=headers).text
        assert other not in everything
        assert "theirs" not in everything
        bad = {"authorization": "Bearer nothing"}
        assert httpx.get(f"{almenara.url}/api/session", headers=bad).status_code == 401

        browser = httpx.Client(base_url=almenara.url, headers={"origin": almenara.url})
        csrf = re.search(r'name="csrf" value="([^"]+)"', browser.get("/sign-in").text)
        assert csrf is not None
        done = browser.post("/sign-in", data={"csrf": csrf[1], "token": token})
        assert done.status_code == 303, done.text
        cookie = f"almenara={browser.cookies['almenara']}"
        url = f"ws://127.0.0.1:{almenara.port}/live?panel=events"
        async with connect(url, origin=almenara.url, additional_headers={"cookie": cookie}) as it:  # type: ignore[arg-type]
            await it.recv()
            began = time.monotonic()
            await asyncio.to_thread(api_server.disallow, namespace)
            with pytest.raises(ConnectionClosed) as closed:
                async with asyncio.timeout(15):
                    while True:
                        await it.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4401
        print(f"a right taken away -> 4401 after {time.monotonic() - began:.1f} s")
        assert time.monotonic() - began < 5
        assert pods() == set()
