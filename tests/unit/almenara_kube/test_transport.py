"""Errors on the way to an API server: what went wrong, and no password of a proxy."""

import asyncio
from pathlib import Path

import pytest
import yaml

from almenara_kube.client import connect
from almenara_kube.errors import UnreachableError
from almenara_kube.settings import KubeContext
from support.servers import free_port

pytestmark = pytest.mark.anyio

SECRET = "s3cr3t-password"


def kubeconfig(folder: Path, server: str, proxy: str = "") -> KubeContext:
    cluster = {"server": server, **({"proxy-url": proxy} if proxy else {})}
    path = folder / "config"
    path.write_text(
        yaml.safe_dump(
            {
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "c"}}],
                "clusters": [{"name": "c", "cluster": cluster}],
            }
        )
    )
    return KubeContext(path)


async def failure(context: KubeContext) -> str:
    async with connect(context) as client:
        with pytest.raises(UnreachableError) as caught:
            await client.measure_answer()
    return str(caught.value)


async def test_proxy_that_refuses_the_password_is_reported_without_it(tmp_path: Path) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    proxy = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with proxy:
        port = proxy.sockets[0].getsockname()[1]
        url = f"http://user:{SECRET}@127.0.0.1:{port}"
        reason = await failure(kubeconfig(tmp_path, "https://api.invalid:6443", url))

    assert "the proxy answers 407" in reason
    assert SECRET not in reason


async def test_proxy_that_does_not_listen_is_reported_without_its_password(
    tmp_path: Path, unused_port: int
) -> None:
    url = f"http://user:{SECRET}@127.0.0.1:{unused_port}"

    reason = await failure(kubeconfig(tmp_path, "https://api.invalid:6443", url))

    assert "proxy" in reason
    assert SECRET not in reason


async def test_name_that_cannot_be_resolved_is_named(tmp_path: Path) -> None:
    reason = await failure(kubeconfig(tmp_path, "https://no-such-cluster.invalid:6443"))

    assert "the name no-such-cluster.invalid cannot be resolved" in reason


async def test_server_that_does_not_listen_refuses_the_connection(
    tmp_path: Path, unused_port: int
) -> None:
    reason = await failure(kubeconfig(tmp_path, f"https://127.0.0.1:{unused_port}"))

    assert reason == (
        f"the API server at https://127.0.0.1:{unused_port} cannot be reached: Connection refused"
    )


@pytest.fixture
def unused_port() -> int:
    return free_port()
