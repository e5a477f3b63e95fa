"""An httpx transport that bounds the size and the duration of every response."""

import asyncio
import ssl
from typing import Final

import httpx

from almenara.sdk.http import Resolver, create_transport, environment_proxy

LARGEST_RESPONSE: Final = 1024 * 1024
"""Bytes; tokens, key sets and group lists take some thousands."""
KEPT_EXTENSIONS: Final[tuple[str, ...]] = ("http_version", "reason_phrase")


class BoundedTransport(httpx.AsyncBaseTransport):
    """Rejects responses that are larger than `LARGEST_RESPONSE`, incomplete after `timeout`
    seconds, or compressed, since little data can decompress to much.

    Raises `httpx.TransportError` like a broken connection. Requests go through the proxy of the
    environment for their address.
    """

    def __init__(
        self, context: ssl.SSLContext, timeout: float, resolver: Resolver | None = None
    ) -> None:
        self.timeout = timeout
        self._context, self._resolver = context, resolver or Resolver()
        self._transports: dict[str | None, httpx.AsyncHTTPTransport] = {}
        """By proxy; None for direct connections."""

    async def aclose(self) -> None:
        for transport in self._transports.values():
            await transport.aclose()

    def _select(self, url: httpx.URL) -> httpx.AsyncHTTPTransport:
        proxy = environment_proxy(str(url))
        if proxy not in self._transports:
            self._transports[proxy] = create_transport(
                self._context, proxy=proxy, resolver=self._resolver
            )
        return self._transports[proxy]

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.headers["accept-encoding"] = "identity"
        try:
            # Of the whole response: a timeout of httpx starts again with every byte.
            async with asyncio.timeout(self.timeout):
                return await self._read_response(request)
        except TimeoutError:
            raise httpx.ReadTimeout(
                f"no complete response within {self.timeout:g} s", request=request
            ) from None

    async def _read_response(self, request: httpx.Request) -> httpx.Response:
        response = await self._select(request.url).handle_async_request(request)
        try:
            if response.headers.get("content-encoding", "identity").lower() != "identity":
                raise httpx.DecodingError("the response is compressed", request=request)
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > LARGEST_RESPONSE:
                    raise httpx.ReadError(
                        f"the response is larger than {LARGEST_RESPONSE:,} bytes", request=request
                    )
        finally:
            await response.aclose()
        extensions = {
            name: response.extensions[name]
            for name in KEPT_EXTENSIONS
            if name in response.extensions
        }
        return httpx.Response(
            response.status_code,
            headers=response.headers,
            content=bytes(body),
            request=request,
            extensions=extensions,
        )
