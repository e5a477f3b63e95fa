"""Asking a dashboard: a fixed list of paths, GET alone, and a limit to everything.

A Ray dashboard runs what it is sent, so that nothing but reading is possible from here, and no
redirect leads the request, or its token, elsewhere.
"""

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import Final
from urllib.parse import quote

import httpx

from almenara.config import redact_secrets
from almenara_ray.settings import ClusterSettings, RaySettings

PATHS: Final[Mapping[str, str]] = {
    "version": "api/version",
    "jobs": "api/jobs/",
    "job": "api/jobs/{}",
    "job_logs": "api/jobs/{}/logs",
    "unfinished": "api/v0/jobs",
    "nodes": "api/v0/nodes",
    "summary": "nodes",
    "status": "api/cluster_status",
    "actors": "api/v0/actors/summarize",
    "tasks": "api/v0/tasks/summarize",
    "serve": "api/serve/applications/",
    "log": "api/v0/logs/file",
    "log_stream": "api/v0/logs/stream",
}
"""Everything that is ever asked for. `{}` stands for the id of a job."""
AGENT: Final = "almenara-ray"
REASON: Final = 300
JOB_ID: Final = re.compile(r"(?!\.{1,2}$)[^\x00-\x1f/\\?#]{1,256}")
"""Ids that can be part of a path; Ray takes any text as one."""


class AskingError(Exception):
    """A dashboard gave no answer that can be used; the text says why, without its address."""


class MissingError(AskingError):
    """This Ray has no such endpoint, or knows no such thing."""


class RefusedError(AskingError):
    """The dashboard wants another token or another header."""


class TooLongError(AskingError):
    """The answer is longer than `body_limit`."""


class Dashboard:
    """The dashboard of one cluster. To be used within `async with`."""

    def __init__(self, cluster: ClusterSettings, settings: RaySettings) -> None:
        self.cluster, self.settings = cluster, settings
        self.ray = ""
        """The version of Ray that answered last, where somebody has asked for it."""
        self._client: httpx.AsyncClient | None = None

    async def __aenter__(self) -> "Dashboard":
        self._client = _client(self.cluster, self.settings)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def get(self, what: str, *, job: str = "", **query: str | float) -> bytes:
        """The body of an answer; `what` is a name of `PATHS`. Raises `AskingError`."""
        limit = self.settings.body_limit
        parts: list[bytes] = []
        size = 0
        try:
            async with (
                asyncio.timeout(self.settings.timeout),
                self._ask(what, job, query) as answer,
            ):
                async for part in answer.aiter_bytes():
                    size += len(part)
                    if size > limit:
                        raise TooLongError(f"its answer is longer than {limit:,} bytes")
                    parts.append(part)
        except TimeoutError:
            raise AskingError(f"no whole answer within {self.settings.timeout:g} s") from None
        return b"".join(parts)

    async def stream(
        self, what: str, *, job: str = "", **query: str | float
    ) -> AsyncIterator[bytes]:
        """The parts of an answer as they come, for as long as they do. Raises `AskingError`."""
        async with self._ask(what, job, query, patient=True) as answer:
            async for part in answer.aiter_bytes():
                yield part

    @contextlib.asynccontextmanager
    async def _ask(
        self, what: str, job: str, query: Mapping[str, str | float], *, patient: bool = False
    ) -> AsyncIterator[httpx.Response]:
        if self._client is None:
            raise RuntimeError("a Dashboard is asked within `async with`")
        if job and not JOB_ID.fullmatch(job):
            raise MissingError("the id of the job cannot be part of an address")
        address = PATHS[what].format(quote(job, safe=""))
        settings = self.settings
        limits = httpx.Timeout(settings.timeout, connect=settings.connect_timeout)
        if patient:
            # A log that nobody writes to is silent for long.
            limits = httpx.Timeout(None, connect=settings.connect_timeout)
        try:
            headers = _headers(self.cluster)
            async with self._client.stream(
                "GET", address, params=dict(query), headers=headers, timeout=limits
            ) as answer:
                await _judge(answer)
                yield answer
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise
            raise AskingError(self._reason(error)) from None

    def _reason(self, error: Exception) -> str:
        if isinstance(error, httpx.ConnectTimeout | httpx.PoolTimeout):
            return f"no connection within {self.settings.connect_timeout:g} s"
        if isinstance(error, httpx.TimeoutException):
            return f"no answer within {self.settings.timeout:g} s"
        if isinstance(error, httpx.ConnectError) and "attempts failed" in str(error):
            return "nobody listens at its address"
        text = " ".join(str(error).split()) or type(error).__name__
        if "CERTIFICATE_VERIFY_FAILED" in text:
            _, _, why = text.partition("certificate verify failed: ")
            return f"its certificate is not valid: {(why or text).partition(' (_ssl')[0]}"
        return hidden(text, self.cluster)[:REASON]


def _client(cluster: ClusterSettings, settings: RaySettings) -> httpx.AsyncClient:
    verify: ssl.SSLContext | bool = True
    if cluster.ca is not None:
        try:
            verify = ssl.create_default_context(cafile=str(cluster.ca))
        except (OSError, ssl.SSLError) as error:
            raise AskingError(f"the file {cluster.ca} of ca cannot be read: {error}") from None
    # How long an answer may take is said with each question.
    return httpx.AsyncClient(  # nosemgrep: client-without-limits
        base_url=cluster.url.rstrip("/") + "/",
        verify=verify,
        follow_redirects=False,
        trust_env=False,
        # A dashboard is asked one thing at a time, besides the logs that somebody looks at.
        limits=httpx.Limits(max_connections=8, max_keepalive_connections=1, keepalive_expiry=30),
    )


def _headers(cluster: ClusterSettings) -> httpx.Headers:
    # No header that makes Ray take us for a browser, and none that has it compress: the limit is
    # on what is read, and a small body must not unfold into a large one.
    headers = httpx.Headers(
        {"user-agent": AGENT, "accept": "application/json", "accept-encoding": "identity"}
    )
    headers.update({it.encode(): value.reveal().encode() for it, value in cluster.headers.items()})
    if cluster.token is not None:
        headers.update({b"authorization": f"Bearer {cluster.token.reveal()}".encode()})
    return headers


async def _judge(answer: httpx.Response) -> None:
    code = answer.status_code
    if code == 200:
        if answer.headers.get("content-encoding", "identity") != "identity":
            raise AskingError("its answer is compressed, which it was asked not to be")
        return
    if 300 <= code < 400:
        raise AskingError(
            f"it answers {code} and points elsewhere, which is not followed; is this Ray's"
            " dashboard, or a sign-in in front of it?"
        )
    if code in (401, 403):
        raise RefusedError(f"it answers {code}: the token, or a header, is missing or wrong")
    if code in (404, 501):
        # 501 is what Ray without its extra `serve` answers where Serve is asked for.
        raise MissingError(f"it answers {code}")
    raise AskingError(f"it answers {code}, expected 200")


def hidden(text: str, cluster: ClusterSettings) -> str:
    """The text without the secrets of a cluster and without its address."""
    text = redact_secrets(text, (cluster.token, *cluster.headers.values()))
    host = cluster.url.partition("://")[2].partition("/")[0]
    return text.replace(cluster.url, "its address").replace(host, "its address")
