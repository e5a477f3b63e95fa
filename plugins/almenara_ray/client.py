"""The HTTP client of a dashboard: GET only, on a fixed list of paths, each answer bounded.

A Ray dashboard runs code that it is sent (CVE-2023-48022). This client can only read, and follows
no redirect, which could lead the request, or its token, elsewhere.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Mapping
from typing import Final, Self
from urllib.parse import quote

import httpx

from almenara.config import redact_secrets
from almenara.sdk import blocking, describe_error
from almenara.sdk.http import create_client, describe_http_error
from almenara_ray.errors import (
    AccessDeniedError,
    AnswerTooLargeError,
    DashboardError,
    MissingError,
    TimedOutError,
)
from almenara_ray.settings import ClusterSettings, RaySettings

PATHS: Final[Mapping[str, str]] = {
    "version": "api/version",
    "jobs": "api/jobs/",
    "job": "api/jobs/{}",
    "job_logs": "api/jobs/{}/logs",
    "unfinished": "api/v0/jobs",
    "nodes": "api/v0/nodes",
    "node_metrics": "nodes",
    "status": "api/cluster_status",
    "actors": "api/v0/actors/summarize",
    "tasks": "api/v0/tasks/summarize",
    "serve": "api/serve/applications/",
    "log": "api/v0/logs/file",
    "log_stream": "api/v0/logs/stream",
}
"""Every path that is ever requested, by endpoint. `{}` stands for the id of a job."""
USER_AGENT: Final = "almenara-ray"
ERROR_LIMIT: Final = 300
JOB_ID: Final = re.compile(r"(?!\.{1,2}$)[^\x00-\x1f/\\?#]{1,256}")
"""Ids that can be part of a path; Ray accepts any text as an id."""


class DashboardClient:
    """Reads the dashboard of one cluster. Use it as an asynchronous context manager."""

    def __init__(self, cluster: ClusterSettings, settings: RaySettings) -> None:
        self.cluster, self.settings = cluster, settings
        self.denied_hint = ""
        """What to do where the dashboard refuses the token."""
        self.was_denied = asyncio.Event()
        self.ray_version = ""
        """The version of Ray that answered last; empty while unknown."""
        self._http: httpx.AsyncClient | None = None

    @property
    def version(self) -> tuple[int, ...]:
        """The first two numbers of `ray_version`; empty while it is unknown."""
        return tuple(map(int, re.findall(r"\d+", self.ray_version)[:2]))

    async def __aenter__(self) -> Self:
        self._http = await blocking(lambda: _make_http_client(self.cluster))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    async def get(
        self, endpoint: str, *, job: str = "", within: float = 0.0, **query: str | float
    ) -> bytes:
        """Return the body of an answer; `endpoint` is a key of `PATHS`.

        `within` are the seconds for the complete answer, by default the setting `timeout`. Raises
        `DashboardError`.
        """
        limit = self.settings.body_limit
        within = within or self.settings.timeout
        parts: list[bytes] = []
        size = 0
        try:
            async with (
                asyncio.timeout(within),
                self._send(endpoint, job, query, within) as response,
            ):
                async for part in response.aiter_bytes():
                    size += len(part)
                    if size > limit:
                        raise AnswerTooLargeError(f"its answer is longer than {limit:,} bytes")
                    parts.append(part)
        except TimeoutError:
            raise TimedOutError(f"no complete answer within {within:g} s") from None
        return b"".join(parts)

    async def stream(
        self, endpoint: str, *, job: str = "", **query: str | float
    ) -> AsyncIterator[bytes]:
        """Yield the parts of an answer as they arrive, without a time limit.

        Raises `DashboardError`.
        """
        async with self._send(endpoint, job, query, None) as response:
            async for part in response.aiter_bytes():
                yield part

    @contextlib.asynccontextmanager
    async def _send(
        self,
        endpoint: str,
        job: str,
        query: Mapping[str, str | float],
        within: float | None,
    ) -> AsyncIterator[httpx.Response]:
        if self._http is None:
            raise RuntimeError("use a DashboardClient within `async with`")
        if job and not JOB_ID.fullmatch(job):
            raise MissingError("the id of the job cannot be part of an address")
        settings = self.settings
        # A log that nothing is written to is silent for long, so that a stream has no read limit.
        timeout = httpx.Timeout(within, connect=settings.connect_timeout)
        try:
            async with self._http.stream(
                "GET",
                PATHS[endpoint].format(quote(job, safe="")),
                params=dict(query),
                headers=_make_headers(self.cluster),
                timeout=timeout,
            ) as response:
                try:
                    _check_response(response)
                except AccessDeniedError as error:
                    self.was_denied.set()
                    raise AccessDeniedError(f"{error}{self.denied_hint}") from None
                yield response
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise
            if isinstance(error, httpx.ReadTimeout):
                raise TimedOutError(f"no answer within {within or 0:g} s") from None
            raise DashboardError(self._describe(error)) from None

    def _describe(self, error: Exception) -> str:
        if isinstance(error, httpx.ConnectError) and "attempts failed" in str(error):
            return "connection refused"
        text = describe_http_error(error, self.settings.connect_timeout)
        return hide_address(text, self.cluster)[:ERROR_LIMIT]


def _make_http_client(cluster: ClusterSettings) -> httpx.AsyncClient:
    try:
        # Each request has its own time limit. A dashboard is reached directly: no proxy of the
        # environment may see its token.
        return create_client(  # nosemgrep: client-without-limits
            cluster.url,
            ca=cluster.ca,
            use_environment=False,
            base_url=cluster.url.rstrip("/") + "/",
            follow_redirects=False,
            # One request at a time, besides the logs that viewers follow.
            limits=httpx.Limits(
                max_connections=8, max_keepalive_connections=1, keepalive_expiry=30
            ),
        )
    except OSError as error:
        raise DashboardError(describe_error(error)) from None


def _make_headers(cluster: ClusterSettings) -> httpx.Headers:
    # No header that looks like a browser's, to which Ray answers differently, and no compression:
    # `body_limit` bounds what is read, and a small compressed body could expand to a huge one.
    headers = httpx.Headers(
        {"user-agent": USER_AGENT, "accept": "application/json", "accept-encoding": "identity"}
    )
    headers.update(
        {name.encode(): value.reveal().encode() for name, value in cluster.headers.items()}
    )
    if cluster.token is not None:
        headers.update({b"authorization": f"Bearer {cluster.token.reveal()}".encode()})
    return headers


def _check_response(response: httpx.Response) -> None:
    """Raise `DashboardError` for a response that has no usable body."""
    code = response.status_code
    if code == 200:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise DashboardError("its answer is compressed, although the request forbids it")
        return
    if 300 <= code < 400:
        raise DashboardError(
            f"it answers {code}, a redirect, which is not followed; is this Ray's dashboard, or a"
            " sign-in in front of it?"
        )
    if code in (401, 403):
        raise AccessDeniedError(f"it answers {code}: the token, or a header, is missing or wrong")
    if code in (404, 501):
        # Ray without its extra `serve` answers 501 for Serve.
        raise MissingError(f"it answers {code}")
    raise DashboardError(f"it answers {code}, expected 200")


def hide_address(text: str, cluster: ClusterSettings) -> str:
    """Return the text without the secrets of a cluster and without its address."""
    text = redact_secrets(text, (cluster.token, *cluster.headers.values()))
    host = cluster.url.partition("://")[2].partition("/")[0]
    return text.replace(cluster.url, "its address").replace(host, "its address")
