"""A kubelet that the test plays: it serves logs to a real API server."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import Any

from support.api_server import ApiServer


class Kubelet:
    """Serves the same log for each container, and breaks off after each answer but the last."""

    def __init__(self, server: ApiServer) -> None:
        self.server, self.requests = server, list[str]()
        self.answers: list[bytes] = []
        self.refusals: list[bytes] = []
        """What it answers at first, as a bad request."""

    @contextlib.asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator[int]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.server._certificate)
        listener = await asyncio.start_server(self._serve, "127.0.0.1", port, ssl=context)
        try:
            yield listener.sockets[0].getsockname()[1]
        finally:
            listener.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            self.requests.append(head.split(b" ", 2)[1].decode())
            if self.refusals:
                refusal = self.refusals.pop(0)
                head = b"HTTP/1.1 400 Bad Request\r\ncontent-length: %d\r\n\r\n" % len(refusal)
                writer.write(head + refusal)
                await writer.drain()
                writer.close()
                return
            body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            broken = len(self.answers) > 1 or body.endswith(b"broken\n")
            announced = len(body) + (1000 if broken else 0)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % announced + body)
            await writer.drain()
            writer.close()


def node_of(namespace: str, port: int) -> dict[str, Any]:
    """A node whose kubelet listens on a port here."""
    return {
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": f"node-{namespace}"},
        "status": {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        },
    }  # fmt: skip
