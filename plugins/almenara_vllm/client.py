"""Reads one server: its page of metrics, its health, models and version."""

import asyncio
from typing import Final, TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec

from almenara.config import redact_secrets
from almenara.sdk import AlmenaraError
from almenara.sdk.http import Resolver, create_client, describe_http_error
from almenara_vllm.settings import RaySettings, TargetSettings

USER_AGENT: Final = "almenara-vllm"
LONGEST_REASON: Final = 300
T = TypeVar("T")
TARGETS: Final = "/api/prometheus/sd"
SMALL: Final = 1024**2
"""Bytes of a response that is not a page of metrics."""


class ServerError(AlmenaraError):
    """A server did not answer as expected; the text gives the reason."""


class ModelEntry(msgspec.Struct):
    """An entry of `/v1/models`."""

    id: str
    max_model_len: int | None = None
    parent: str | None = None
    """The base model of a LoRA adapter."""


class ModelList(msgspec.Struct):
    """The response of `/v1/models`."""

    data: list[ModelEntry]


class VersionInfo(msgspec.Struct):
    """The response of `/version`."""

    version: str


class LoadInfo(msgspec.Struct):
    """The response of `/load`."""

    server_load: int


class HttpReader:
    """Reads from one address: bounded in time and size, with plain errors."""

    def __init__(
        self,
        settings: TargetSettings,
        url: str,
        body_limit: int,
        resolver: Resolver | None = None,
        *,
        host: str = "",
    ) -> None:
        self._settings, self.url, self._body_limit = settings, url.rstrip("/"), body_limit
        self._resolver, self._host = resolver, host or urlsplit(url).netloc
        self._client: httpx.AsyncClient | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def _get(
        self, path: str, limit: int, *, has_key: bool = False, has_headers: bool = True
    ) -> tuple[int, bytes]:
        settings = self._settings
        try:
            async with asyncio.timeout(settings.timeout):
                return await self._read(path, limit, has_key, has_headers)
        except ServerError:
            raise
        except TimeoutError:
            raise ServerError(f"no complete response within {settings.timeout:g} s") from None
        except Exception as error:
            # A server can make the client raise anything; no other server may suffer from it.
            await self.close()
            text = describe_http_error(error, settings.timeout)
            secrets = (settings.api_key, *settings.headers.values())
            raise ServerError(redact_secrets(text, secrets)[:LONGEST_REASON]) from None

    async def _read(
        self, path: str, limit: int, has_key: bool, has_headers: bool
    ) -> tuple[int, bytes]:
        settings = self._settings
        if self._client is None:
            self._client = create_client(
                self.url,
                ca=settings.ca,
                resolver=self._resolver,
                timeout=settings.timeout,
                follow_redirects=False,
            )
        headers = httpx.Headers({"accept-encoding": "identity", "user-agent": USER_AGENT})
        # The address of one of several servers is no name that they know.
        headers["host"] = self._host
        if has_headers:
            headers.update(
                {name.encode(): value.reveal().encode() for name, value in settings.headers.items()}
            )
        if has_key and settings.api_key is not None:
            headers.update({b"authorization": f"Bearer {settings.api_key.reveal()}".encode()})
        parts: list[bytes] = []
        size = 0
        async with self._client.stream("GET", self.url + path, headers=headers) as response:
            if response.headers.get("content-encoding", "identity") != "identity":
                raise ServerError("its response is compressed although identity was requested")
            async for part in response.aiter_bytes():
                size += len(part)
                if size > limit:
                    raise ServerError(f"its response is longer than {limit:,} bytes")
                parts.append(part)
        return response.status_code, b"".join(parts)


class DashboardReader(HttpReader):
    """Reads the targets that the dashboard of a Ray cluster lists."""

    def __init__(self, settings: RaySettings, body_limit: int) -> None:
        super().__init__(settings, settings.url, body_limit)

    async def read_targets(self) -> bytes:
        """Return the HTTP service discovery. Raises `ServerError`."""
        status, body = await self._get(TARGETS, SMALL)
        if status == 404:
            raise ServerError(
                f"the dashboard has no {TARGETS}: it is older than Ray 2.60; set the pages of"
                " metrics in servers"
            )
        if status != 200:
            raise ServerError(f"{TARGETS} answers {status}, expected 200")
        return body


class ServerClient(HttpReader):
    """A client of one server at one address."""

    def __init__(
        self,
        settings: TargetSettings,
        url: str,
        body_limit: int,
        resolver: Resolver | None = None,
        *,
        metrics_only: bool = False,
        host: str = "",
    ) -> None:
        super().__init__(settings, url, body_limit, resolver, host=host)
        self._is_page = metrics_only and urlsplit(url).path.strip("/") != ""
        # The headers of a Ray cluster are for its dashboard.
        self._has_headers = not isinstance(settings, RaySettings)

    async def read_metrics(self) -> bytes:
        """Return the page of metrics. Raises `ServerError`."""
        path = "" if self._is_page else "/metrics"
        status, body = await self._get(path, self._body_limit, has_headers=self._has_headers)
        if status != 200:
            raise ServerError(f"{path or 'the page of metrics'} answers {status}, expected 200")
        return body

    async def read_health(self) -> str:
        """Return why the server is not healthy; empty if it is. Raises `ServerError`."""
        status, _ = await self._get("/health", SMALL)
        # A gateway may not pass it on, which says nothing about the engine.
        return f"/health answers {status}: the engine is dead" if status >= 500 else ""

    async def read_load(self) -> int:
        """Return the requests in the API server, which are counted with
        `--enable-server-load-tracking` alone. Raises `ServerError`."""
        status, body = await self._get("/load", SMALL)
        return _decode(body, LoadInfo, "/load", status).server_load

    async def read_models(self) -> list[ModelEntry]:
        """Return the served models. Raises `ServerError`."""
        status, body = await self._get("/v1/models", SMALL, has_key=True)
        if status in (401, 403):
            raise ServerError(f"/v1/models answers {status}; set api_key")
        return _decode(body, ModelList, "/v1/models", status).data[:100]

    async def read_version(self) -> str:
        """Return the version of the server. Raises `ServerError`."""
        status, body = await self._get("/version", SMALL)
        return _decode(body, VersionInfo, "/version", status).version[:100]


def _decode(body: bytes, kind: type[T], path: str, status: int) -> T:
    if status != 200:
        raise ServerError(f"{path} answers {status}, expected 200")
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise ServerError(f"{path} cannot be read: {error}"[:LONGEST_REASON]) from None
