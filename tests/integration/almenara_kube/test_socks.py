"""A cluster behind a SOCKS5 proxy, which resolves the names of hosts."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from almenara_kube.client import connect
from almenara_kube.errors import UnreachableError
from almenara_kube.settings import KubeContext
from support.api_server import ApiServer

pytestmark = pytest.mark.anyio

USER, PASSWORD = b"me", b"p@ss"


class SocksProxy:
    """A SOCKS5 proxy with a user and password that connects every name to 127.0.0.1."""

    def __init__(self) -> None:
        self.hosts: list[str] = []
        self.password = PASSWORD
        self.reply = 0

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            version, count = await reader.readexactly(2)
            assert version == 5
            assert 2 in await reader.readexactly(count)
            writer.write(b"\x05\x02")
            await reader.readexactly(1)
            user = await reader.readexactly((await reader.readexactly(1))[0])
            password = await reader.readexactly((await reader.readexactly(1))[0])
            is_known = (user, password) == (USER, self.password)
            writer.write(b"\x01\x00" if is_known else b"\x01\x01")
            if not is_known:
                await writer.drain()
                writer.close()
                return
            _, _, _, kind = await reader.readexactly(4)
            length = 4 if kind == 1 else (await reader.readexactly(1))[0]
            name = await reader.readexactly(length)
            port = int.from_bytes(await reader.readexactly(2), "big")
            self.hosts.append(".".join(map(str, name)) if kind == 1 else name.decode())
            writer.write(bytes([5, self.reply, 0, 1]) + bytes(6))
            if not self.reply:
                await self._relay(reader, writer, port)
        writer.close()

    async def _relay(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int
    ) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)

        async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(65_536):
                target.write(data)
                await target.drain()
            target.close()

        await asyncio.gather(
            pump(reader, inner_writer), pump(inner_reader, writer), return_exceptions=True
        )


def kubeconfig(server: ApiServer, path: Path, proxy: str, host: str = "127.0.0.1") -> KubeContext:
    server.kubeconfig(client=server.admin_certificate, path=path)
    tree = yaml.safe_load(path.read_text())
    tree["clusters"][0]["cluster"] |= {
        "server": f"https://{host}:{server.port}", "proxy-url": proxy,
        "tls-server-name": "127.0.0.1",
    }  # fmt: skip
    path.write_text(yaml.safe_dump(tree))
    return KubeContext(path)


@pytest.mark.parametrize("host", ["127.0.0.1", "only-behind-the-proxy.invalid"])
async def test_requests_go_through_the_proxy_with_the_name_of_the_host(
    api_server: ApiServer, tmp_path: Path, host: str
) -> None:
    proxy = SocksProxy()
    async with proxy.run() as port:
        url = f"socks5://me:p%40ss@127.0.0.1:{port}"
        async with connect(kubeconfig(api_server, tmp_path / "config", url, host)) as client:
            await client.measure_answer()

    assert proxy.hosts == [host]
    assert client.version > (1, 0)


@pytest.mark.parametrize(
    ("reply", "password", "expected"),
    [
        (0, b"other", "refuses the user or the password"),
        (4, PASSWORD, "the host is unreachable"),
        (5, PASSWORD, "the connection is refused"),
    ],
)
async def test_failures_of_the_proxy_are_reported_without_its_password(
    api_server: ApiServer, tmp_path: Path, reply: int, password: bytes, expected: str
) -> None:
    proxy = SocksProxy()
    proxy.reply, proxy.password = reply, password
    async with proxy.run() as port:
        url = f"socks5h://me:p%40ss@127.0.0.1:{port}"
        async with connect(kubeconfig(api_server, tmp_path / "config", url)) as client:
            with pytest.raises(UnreachableError) as caught:
                await client.measure_answer()

    assert expected in str(caught.value)
    assert "p@ss" not in str(caught.value)
    assert "p%40ss" not in str(caught.value)
