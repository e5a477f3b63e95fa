"""The client of one API server: requests, streams, and whether the server still answers."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final, Self

import aiohttp
import msgspec

from almenara.sdk import Backoff, monotonic, sleep
from almenara_kube.credentials import shared_loader
from almenara_kube.errors import ApiError, UnreachableError
from almenara_kube.objects import DECODE_ERRORS
from almenara_kube.session import AuthenticatedSession, Load
from almenara_kube.settings import ClientSettings, KubeContext
from almenara_kube.socks import is_socks
from almenara_kube.transport import (
    ResponseStream,
    describe_transport_error,
    read_refusal,
    read_whole,
)

PROBE_LIMIT: Final = 4.0
"""Seconds between probes of an API server that does not answer, at most."""
SPREAD: Final = 1.0
"""Seconds over which requests are spread after an outage."""
RETRY_AFTER_LIMIT: Final = 120.0
"""Seconds that an API server can delay requests by Retry-After."""


class _Version(msgspec.Struct):
    """https://kubernetes.io/docs/reference/using-api/deprecation-guide/ (`/version`)."""

    major: str
    minor: str


def connect(context: KubeContext, settings: ClientSettings | None = None) -> "ApiClient":
    """A client with the credentials of a kubeconfig or of the pod that Almenara runs in, which
    clients of the same event loop share."""
    loader = shared_loader(context)
    return ApiClient(loader.load, settings, on_close=loader.release)


class ApiClient:
    """The API server of one cluster.

    All requests wait as long as the server demands by `Retry-After`. While it does not answer at
    all, `monitor` probes it on behalf of all watches, which wait in `wait_until_reachable`.
    """

    def __init__(
        self,
        load: Load,
        settings: ClientSettings | None = None,
        *,
        on_close: Callable[[], None] | None = None,
        longest_answer: int | None = None,
    ) -> None:
        self.longest_answer = longest_answer
        self.settings = settings if settings is not None else ClientSettings()
        self.version = (0, 0)
        """Major and minor version of the server; zeros until it has answered."""
        self.requests = 0
        self.list_turns = asyncio.Semaphore(1)
        """Lists run one after another, owners first, so that not all are in memory at once. One
        that takes longer than `ListTurn.LIMIT` does not keep the others waiting."""
        self.failed_streamed_lists = 0
        """Kinds whose streamed list did not end."""
        self._session, self._on_close = AuthenticatedSession(load), on_close
        self._reachable, self._needs_probe = asyncio.Event(), asyncio.Event()
        self._has_failed = False
        self._paused_until = 0.0
        self._streams: set[ResponseStream] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()
        await self._session.close()

    @property
    def server(self) -> str:
        """Its address, without anything secret; empty until credentials are loaded."""
        return self._session.server

    @property
    def namespace(self) -> str:
        """The namespace of its credentials; empty where they have none or are not loaded."""
        return self._session.namespace

    # Requests

    async def get(
        self, path: str, parameters: Mapping[str, str] | None = None, *, accept: str = ""
    ) -> bytes:
        """GET a whole answer. Raises `UnreachableError` and `ApiError`."""
        return await self._request(path, parameters or {}, accept, None)

    async def post(self, path: str, body: bytes) -> bytes:
        """POST a review and return the whole answer. Raises `UnreachableError` and `ApiError`."""
        return await self._request(path, {}, "", body)

    async def _request(
        self, path: str, parameters: Mapping[str, str], accept: str, body: bytes | None
    ) -> bytes:
        limit = self.settings.answer_timeout
        await self._wait_for_retry_after()
        # Credentials have limits of their own: an exec plugin may take longer than an answer.
        await self._session.authenticate()
        try:
            async with asyncio.timeout(limit):
                response = await self._send(path, parameters, accept, body=body)
                try:
                    return await read_whole(response, self.longest_answer)
                finally:
                    response.release()
        except TimeoutError:
            self.request_probe()
            raise UnreachableError(f"no complete answer within {limit:g} s") from None
        except UnreachableError:
            raise
        except (aiohttp.ClientError, OSError) as error:
            self.request_probe()
            raise UnreachableError(
                f"the answer broke off: {describe_transport_error(error)}"
            ) from None

    @contextlib.asynccontextmanager
    async def stream(
        self,
        path: str,
        parameters: Mapping[str, str],
        *,
        silence: float | None,
        accept: str = "",
    ) -> AsyncIterator[ResponseStream]:
        """GET an answer as it arrives, until nothing has arrived for `silence` seconds.

        Raises `UnreachableError` and `ApiError`.
        """
        limit = self.settings.answer_timeout
        await self._wait_for_retry_after()
        await self._session.authenticate()
        try:
            async with asyncio.timeout(limit):
                # Changes arrive one by one; compressing so little costs both ends for nothing.
                response = await self._send(path, parameters, accept, encoding="identity")
        except TimeoutError:
            self.request_probe()
            raise UnreachableError(f"no answer within {limit:g} s") from None
        stream = ResponseStream(response, silence)
        self._streams.add(stream)
        try:
            yield stream
        finally:
            self._streams.discard(stream)
            response.close()

    async def _wait_for_retry_after(self) -> None:
        while (wait := self._paused_until - monotonic()) > 0:
            await sleep(wait + random.uniform(0, SPREAD))  # nosec B311 # spreads requests, guards nothing

    async def _send(
        self,
        path: str,
        parameters: Mapping[str, str],
        accept: str,
        encoding: str = "gzip",
        body: bytes | None = None,
    ) -> aiohttp.ClientResponse:
        is_retried = body is None
        while True:
            credentials, session = await self._session.authenticate()
            headers = [
                ("accept", accept or "application/json"),
                ("accept-encoding", encoding),
                *credentials.headers,
            ]
            if credentials.authorization:
                headers.append(("authorization", credentials.authorization))
            if body is not None:
                headers.append(("content-type", "application/json"))
            self.requests += 1
            try:
                response = await session.request(
                    "GET" if body is None else "POST", credentials.server + path,
                    params=dict(parameters), headers=headers, data=body,
                    timeout=aiohttp.ClientTimeout(
                        total=None, sock_connect=self.settings.connect_timeout
                    ),
                    server_hostname=credentials.server_name or None,
                    proxy=None if is_socks(credentials.proxy) else credentials.proxy or None,
                    allow_redirects=False,
                )  # fmt: skip
            except (aiohttp.ClientError, OSError, ValueError) as error:
                # The server may have closed an idle connection. aiohttp retries a GET then, and a
                # POST is a review, which changes nothing either.
                if not is_retried and not isinstance(error, aiohttp.ClientConnectorError):
                    is_retried = True
                    continue
                self.request_probe()
                raise UnreachableError(
                    f"the API server at {credentials.address} cannot be reached:"
                    f" {describe_transport_error(error)}"
                ) from None
            if response.status < 300:
                return response
            refusal = await read_refusal(response)
            if refusal.status == 401 and await self._session.replace_refused(credentials):
                continue
            if refusal.status in (429, 503):
                self._note_retry_after(response.headers.get("retry-after", ""))
            raise refusal

    def _note_retry_after(self, seconds: str) -> None:
        if seconds.isdigit():
            until = monotonic() + min(float(seconds), RETRY_AFTER_LIMIT)
            self._paused_until = max(self._paused_until, until)

    # Reachability

    def request_probe(self) -> None:
        """Have the server probed before further requests: something failed on the way to it."""
        self._reachable.clear()
        self._has_failed = True
        self._needs_probe.set()

    @property
    def is_reachable(self) -> bool:
        """Whether the last probe was answered, and nothing has failed since."""
        return self._reachable.is_set()

    async def wait_until_reachable(self) -> None:
        """Return while the API server answers; wait until it does."""
        if not self._reachable.is_set():
            await self._reachable.wait()
            # All watches of all replicas wait here; at the start there is nothing to spread.
            if self._has_failed:
                await sleep(random.uniform(0, SPREAD))  # nosec B311 # spreads requests, guards nothing

    async def monitor(self, on_change: Callable[[str], None]) -> None:
        """Probe the API server at intervals, until cancelled.

        `on_change` is called with the reason why it does not answer, and with an empty text while
        it does.
        """
        backoff = Backoff(self.settings.backoff_first, PROBE_LIMIT)
        lost_at: float | None = None
        while True:
            self._needs_probe.clear()
            started = monotonic()
            try:
                await self._probe()
            except UnreachableError as error:
                self._reachable.clear()
                self._has_failed = True
                lost_at = started if lost_at is None else lost_at
                on_change(str(error))
                await sleep(backoff.failed())
                continue
            backoff.succeeded()
            if lost_at is not None:
                self._close_silent_streams(lost_at)
                lost_at = None
            on_change("")
            self._reachable.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.settings.probe_every):
                    await self._needs_probe.wait()
                # What failed may fail again: not before the first wait of a retry.
                await sleep(backoff.first * random.uniform(0.5, 1))  # nosec B311 # spreads requests, guards nothing

    async def measure_answer(self) -> float:
        """Probe the API server once; return the seconds it took. Raises `UnreachableError`."""
        await self._session.authenticate()
        started = monotonic()
        await self._probe()
        return monotonic() - started

    def _close_silent_streams(self, since: float) -> None:
        """Close the streams without data since an outage began: they may be half open."""
        for stream in list(self._streams):
            if stream.last_data < since:
                stream.response.close()

    async def _probe(self) -> None:
        """GET /version. Raises `UnreachableError` where no Kubernetes API server answers."""
        limit = self.settings.probe_timeout
        # Not within the limit: an exec plugin may take longer, and must be able to finish.
        await self._session.authenticate()
        try:
            async with asyncio.timeout(limit):
                response = await self._send("/version", {}, "")
                body = await read_whole(response)
        except ApiError as error:
            self._check_refusal(error)
            return
        except TimeoutError:
            raise UnreachableError(
                f"the API server at {self.server} has not answered within {limit:g} s"
            ) from None
        except UnreachableError:
            raise
        except (aiohttp.ClientError, OSError) as error:
            raise UnreachableError(
                f"the API server at {self.server} cannot be reached:"
                f" {describe_transport_error(error)}"
            ) from None
        try:
            version = msgspec.json.decode(body, type=_Version)
            self.version = int(version.major), int(version.minor.rstrip("+"))
        except (*DECODE_ERRORS, ValueError):
            raise UnreachableError(
                f"{self.server} answers, but not as a Kubernetes API server: /version is not a"
                " version. Check the address, and for a sign-in page or proxy in front of it"
            ) from None

    def _check_refusal(self, error: ApiError) -> None:
        """Raise `UnreachableError` where an error of /version means that nothing else works.

        A 403 does not: RBAC may forbid /version alone.
        """
        if error.status == 401:
            raise UnreachableError(
                f"the API server at {self.server} refuses the credentials (401): the token or"
                " the certificate is wrong, or has expired"
            )
        if not error.reason and error.status < 500:
            raise UnreachableError(
                f"{self.server} answers, but not as a Kubernetes API server: {error}. Check the"
                " address, and for a sign-in page or proxy in front of it"
            )
        if error.status >= 500:
            raise UnreachableError(
                f"the API server at {self.server} answers {error.status}: {error}"
            )
