"""The cluster as the one who says who somebody is and what they may see: a real API server."""

import asyncio
import re
import time
from pathlib import Path
from urllib.parse import urlencode

import httpx
import pytest
from test_kubernetes_logs import Kubelet
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
    server.allow(f"{namespace}/almenara", [*REVIEWS, *WATCH], None, name=f"almenara-{namespace}")
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
        "ALMENARA_PLUGINS__KUBERNETES__LOGS": "true",
    }
    return almenara


async def test_a_log_is_shown_to_who_may_get_it_and_to_nobody_who_may_only_list_pods(
    tmp_path: Path, api_server: ApiServer, namespace: str
) -> None:
    kubelet = Kubelet(api_server)
    kubelet.answers = [b"2026-01-01T00:00:01.000000001Z the-secret-line\n"]
    read = [*LIST_PODS, {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]}]
    path = f"kubernetes.logs?namespace={namespace}&name=one"
    async with kubelet.running() as port:
        node = {
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": f"node-{namespace}"},
            "status": {
                "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
            },
        }  # fmt: skip
        await asyncio.to_thread(api_server.create, node)
        spec = {"nodeName": f"node-{namespace}", "containers": [{"name": "main", "image": "x"}]}
        await asyncio.to_thread(api_server.pod, namespace, "one", spec=spec)
        tokens = {}
        for who, rules in (("lister", LIST_PODS), ("reader", read)):
            tokens[who] = await asyncio.to_thread(api_server.service_account, namespace, who)
            await asyncio.to_thread(
                api_server.allow, f"{namespace}/{who}", rules, namespace, name=who
            )
        almenara = running(tmp_path, api_server, namespace)
        await asyncio.to_thread(almenara.start)
        try:
            async with httpx.AsyncClient(base_url=almenara.url, timeout=20) as client:

                async def page(who: str) -> str:
                    headers = {"authorization": f"Bearer {tokens[who]}"}
                    return (await client.get(f"/panels/{path}", headers=headers)).text

                async with asyncio.timeout(30):
                    while "the-secret-line" not in await page("reader"):
                        await asyncio.sleep(0.2)
                refused = await page("lister")
                assert "it takes the right to `get pods/log` in the namespace" in refused
                assert "the-secret-line" not in refused
                frames = []
                for who in ("lister", "reader"):
                    async with live(almenara, tokens[who], path) as it:
                        frames.append(str(await it.recv()))
                assert ["the-secret-line" in it for it in frames] == [False, True]

                async with live(almenara, tokens["reader"], path) as it:
                    await it.recv()
                    began = time.monotonic()
                    await asyncio.to_thread(api_server.disallow, namespace, "reader")
                    await asyncio.to_thread(
                        api_server.allow, f"{namespace}/reader", LIST_PODS, namespace, name="less"
                    )
                    with pytest.raises(ConnectionClosed) as closed:
                        async with asyncio.timeout(15):
                            while True:
                                await it.recv()
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == 4401
                print(f"pods/log taken away -> 4401 after {time.monotonic() - began:.1f} s")
                assert time.monotonic() - began < 5
                assert "it takes the right" in await page("reader")
        finally:
            await asyncio.to_thread(almenara.stop)
        await asyncio.to_thread(api_server.delete, node)


def live(almenara: Almenara, token: str, panel: str) -> connect:
    url = f"ws://127.0.0.1:{almenara.port}/live?{urlencode({'panel': panel})}"
    headers = {"authorization": f"Bearer {token}"}
    return connect(url, origin=almenara.url, additional_headers=headers)  # type: ignore[arg-type]


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
