"""Authentication and scopes by reviews of a real API server."""

import asyncio
import re
import time
from pathlib import Path
from urllib.parse import urlencode

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from support.api_server import ApiServer
from support.application import Almenara
from support.kubelet import Kubelet
from support.servers import wait_until

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
        "ALMENARA_AUTH__KUBERNETES__TOKEN_REVIEW_INTERVAL": "1",
        "ALMENARA_AUTH__KUBERNETES__ACCESS_REVIEW_INTERVAL": "1",
        "ALMENARA_PLUGINS__KUBERNETES__CLUSTERS": f"[{{kubeconfig: {config}}}]",
        "ALMENARA_PLUGINS__KUBERNETES__LOGS": "true",
        "ALMENARA_PLUGINS__KUBERNETES__YAML": "true",
    }
    return almenara


async def test_logs_need_the_right_to_get_them(
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
        for caller, rules in (("lister", LIST_PODS), ("reader", read)):
            tokens[caller] = await asyncio.to_thread(api_server.service_account, namespace, caller)
            await asyncio.to_thread(
                api_server.allow, f"{namespace}/{caller}", rules, namespace, name=caller
            )
        almenara = running(tmp_path, api_server, namespace)
        await asyncio.to_thread(almenara.start)
        try:
            async with httpx.AsyncClient(base_url=almenara.url, timeout=20) as client:

                async def page(caller: str) -> str:
                    headers = {"authorization": f"Bearer {tokens[caller]}"}
                    return (await client.get(f"/panels/{path}", headers=headers)).text

                async with asyncio.timeout(30):
                    while "the-secret-line" not in await page("reader"):
                        await asyncio.sleep(0.2)
                refused = await page("lister")
                assert "requires the right to `get pods/log` in the namespace" in refused
                assert "the-secret-line" not in refused
                frames = []
                for caller in ("lister", "reader"):
                    async with live(almenara, tokens[caller], path) as each:
                        frames.append(str(await each.recv()))
                assert ["the-secret-line" in each for each in frames] == [False, True]

                async with live(almenara, tokens["reader"], path) as each:
                    await each.recv()
                    started = time.monotonic()
                    await asyncio.to_thread(api_server.disallow, namespace, "reader")
                    await asyncio.to_thread(
                        api_server.allow, f"{namespace}/reader", LIST_PODS, namespace, name="less"
                    )
                    with pytest.raises(ConnectionClosed) as closed:
                        async with asyncio.timeout(30):
                            while True:
                                await each.recv()
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == 4401
                print(f"pods/log withdrawn -> 4401 after {time.monotonic() - started:.1f} s")
                assert "requires the right" in await page("reader")
        finally:
            await asyncio.to_thread(almenara.stop)
        await asyncio.to_thread(api_server.delete, node)


async def test_yaml_needs_the_right_to_get_the_object(
    tmp_path: Path, api_server: ApiServer, namespace: str
) -> None:
    planted = "hunter2hunter2"
    other = api_server.namespace(f"{namespace}-other")
    containers = [{
        "name": "main", "image": "x", "args": [f"--password={planted}"],
        "env": [{"name": "PASSWORD", "value": planted}, {"name": "LEVEL", "value": planted}],
    }]  # fmt: skip
    for place in (namespace, other):
        api_server.pod(place, "one", spec={"containers": containers})
        metadata = {"namespace": place, "name": "one"}
        api_server.create({"apiVersion": "v1", "kind": "Secret", "metadata": metadata,
                           "stringData": {"password": planted}})  # fmt: skip
    selected = {"app": "one"}
    template = {"metadata": {"labels": selected}, "spec": {"containers": containers}}
    api_server.create({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"namespace": namespace, "name": "one"},
        "spec": {"selector": {"matchLabels": selected}, "template": template},
    })  # fmt: skip
    get_pods = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]
    everything = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]
    tokens = {}
    for caller, rules in (
        ("lister", LIST_PODS), ("reader", LIST_PODS + get_pods), ("owner", everything)
    ):  # fmt: skip
        tokens[caller] = api_server.service_account(namespace, caller)
        api_server.allow(f"{namespace}/{caller}", rules, namespace, name=caller)
    almenara = running(tmp_path, api_server, namespace)

    def path(kind: str, place: str = namespace) -> str:
        return f"kubernetes.manifest?{urlencode({'namespace': place, 'name': f'{kind}/one'})}"

    await asyncio.to_thread(almenara.start)
    try:
        async with httpx.AsyncClient(base_url=almenara.url, timeout=20) as client:

            async def page(caller: str, panel: str) -> str:
                headers = {"authorization": f"Bearer {tokens[caller]}"}
                text = (await client.get(f"/panels/{panel}", headers=headers)).text
                assert planted not in text, (caller, panel)
                return text

            async with asyncio.timeout(30):
                while "kind: Pod" not in await page("reader", path("Pod")):
                    await asyncio.sleep(0.2)
            seen = {
                (caller, kind, place): f"kind: {kind}" in await page(caller, path(kind, place))
                for caller in tokens
                for kind in ("Pod", "Deployment", "Secret")
                for place in (namespace, other)
            }
            allowed = {("reader", "Pod"), ("owner", "Pod"), ("owner", "Deployment")}
            expected = {(caller, kind, namespace) for caller, kind in allowed}
            assert {each for each, shown in seen.items() if shown} == expected
            for panel, right in ((path("Pod"), "get pods"),
                                 (path("Deployment"), "get deployments.apps")):  # fmt: skip
                refused = await page("lister", panel)
                assert f"requires the right to `{right}` in the namespace" in refused

            async with live(almenara, tokens["lister"], path("Pod")) as each:
                frame = str(await each.recv())
                assert "requires the right" in frame
                assert "image: x" not in frame
            async with live(almenara, tokens["reader"], path("Pod")) as each:
                text = ""
                while "image: x" not in text:
                    text += str(await each.recv())
                assert planted not in text
                await asyncio.to_thread(api_server.disallow, namespace, "reader")
                started = time.monotonic()
                await asyncio.to_thread(
                    api_server.allow, f"{namespace}/reader", LIST_PODS, namespace, name="less"
                )
                with pytest.raises(ConnectionClosed) as closed:
                    async with asyncio.timeout(30):
                        while True:
                            await each.recv()
            took = time.monotonic() - started
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 4401
            print(
                f"{len(seen)} requested, {len(expected)} visible; `get` withdrawn -> 4401 after"
                f" {took:.1f} s"
            )
            assert "requires the right" in await page("reader", path("Pod"))
        assert planted not in almenara.log
    finally:
        await asyncio.to_thread(almenara.stop)


def live(almenara: Almenara, token: str, panel: str) -> connect:
    url = f"ws://127.0.0.1:{almenara.port}/live?{urlencode({'panel': panel})}"
    headers = {"authorization": f"Bearer {token}"}
    return connect(url, origin=almenara.url, additional_headers=headers)  # type: ignore[arg-type]


async def test_visible_namespaces_follow_rights_within_5_seconds(
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
            response = httpx.get(
                f"{almenara.url}/api/resources?kind=kubernetes.pod", headers=headers
            )
            if response.status_code != 200:
                return set()
            return {resource["name"] for resource in response.json()}

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
        name = almenara.session_cookie
        cookie = f"{name}={browser.cookies[name]}"
        url = f"ws://127.0.0.1:{almenara.port}/live?panel=events"
        async with connect(url, origin=almenara.url, additional_headers={"cookie": cookie}) as each:  # type: ignore[arg-type]
            await each.recv()
            started = time.monotonic()
            await asyncio.to_thread(api_server.disallow, namespace)
            with pytest.raises(ConnectionClosed) as closed:
                async with asyncio.timeout(30):
                    while True:
                        await each.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4401
        print(f"a right withdrawn -> 4401 after {time.monotonic() - started:.1f} s")
        assert pods() == set()
