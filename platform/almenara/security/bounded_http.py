"""What a provider or a cluster answers: no more of it than it should need, and no longer."""

import asyncio
import ssl
from typing import Final

import httpx

LARGEST_ANSWER: Final = 1024 * 1024
"""Bytes; a token, a set of keys and somebody's groups take some thousands."""


class BoundedTransport(httpx.AsyncHTTPTransport):
    """Gives up answers that are larger than `LARGEST_ANSWER`, not whole within so many seconds, or
    compressed, which little of can be much. Such raise what httpx raises of a connection."""

    def __init__(self, context: ssl.SSLContext, seconds: float) -> None:
        super().__init__(verify=context, trust_env=False)
        self.seconds = seconds

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.headers["accept-encoding"] = "identity"
        try:
            # Of the whole: a timeout of httpx begins anew with every byte.
            async with asyncio.timeout(self.seconds):
                return await self._whole(request)
        except TimeoutError:
            raise httpx.ReadTimeout(
                f"no whole answer within {self.seconds:g} s", request=request
            ) from None

    async def _whole(self, request: httpx.Request) -> httpx.Response:
        answer = await super().handle_async_request(request)
        try:
            if answer.headers.get("content-encoding", "identity").lower() != "identity":
                raise httpx.DecodingError("the answer is compressed", request=request)
            body = bytearray()
            async for part in answer.aiter_raw():
                body += part
                if len(body) > LARGEST_ANSWER:
                    raise httpx.ReadError(
                        f"the answer is larger than {LARGEST_ANSWER:,} bytes", request=request
                    )
        finally:
            await answer.aclose()
        return httpx.Response(
            answer.status_code, headers=answer.headers, content=bytes(body), request=request,
            extensions={it: answer.extensions[it] for it in ("http_version", "reason_phrase")
                        if it in answer.extensions},
        )  # fmt: skip
