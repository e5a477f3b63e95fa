"""The client of one API server: requests, streams, and whether the server still answers."""

import asyncio
import contextlib
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Self

import aiohttp
import msgspec

from almenara.sdk import Backoff, blocking, describe_error, monotonic, sleep
from almenara_kube.credentials import CredentialLoader, Credentials
from almenara_kube.errors import ApiError, UnreachableError
from almenara_kube.objects import DECODE_ERRORS
from almenara_kube.settings import ClientSettings, KubeContext
from almenara_kube.tls import make_tls_context

RENEWED_EVERY: Final = 60.0
"""Seconds after which credentials are loaded again: a token in a file is replaced in time."""
RENEWED_BEFORE: Final = 60.0
"""Seconds before the end of credentials at which they are renewed."""
REFUSED_PAUSE: Final = 5.0
"""Seconds between loading credentials again that the API server refuses."""
PROBE_LIMIT: Final = 4.0
"""Seconds between probes of an API server that does not answer, at most."""
SPREAD: Final = 1.0
"""Seconds over which requests are spread after an outage."""
RETRY_AFTER_LIMIT: Final = 120.0
"""Seconds that an API server can delay requests by Retry-After."""
LONGEST_ERROR: Final = 65_536
LONGEST_ANSWER: Final = 64 * 1024**2
"""Bytes of a decompressed answer that is not a watch; a page of a list is a tenth of it."""
KEEPALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 3), ("TCP_KEEPCNT", 3))
        if hasattr(socket, name)
    ),
)
Load = Callable[[], Awaitable[Credentials]]


class _Status(msgspec.Struct):
    """https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/"""

    kind: str
    message: str = ""
    reason: str = ""
    code: int = 0


class _Version(msgspec.Struct):
    """https://kubernetes.io/docs/reference/using-api/deprecation-guide/ (`/version`)."""

    major: str
    minor: str


class AnswerTooLongError(UnreachableError):
    """An answer has more bytes than are read; a smaller page may fit."""


def connect(context: KubeContext, settings: ClientSettings | None = None) -> "ApiClient":
    """A client with the credentials of a kubeconfig or of the pod that Almenara runs in."""
    return ApiClient(CredentialLoader(context).load, settings)


class ResponseStream:
    """The answer of a watch or a log, as it arrives."""

    def __init__(self, response: aiohttp.ClientResponse, silence: float | None) -> None:
        self.response, self.last_data = response, monotonic()
        self._silence = silence

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the bytes as they arrive. Raises `UnreachableError` where the connection breaks or
        nothing arrives for too long."""
        content = self.response.content
        try:
            while True:
                async with asyncio.timeout(self._silence):
                    chunk = await content.readany()
                if not chunk:
                    return
                self.last_data = monotonic()
                yield chunk
        except TimeoutError:
            raise UnreachableError(f"nothing arrived for {self._silence:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise UnreachableError(
                f"the connection broke: {describe_transport_error(error)}"
            ) from None


class ApiClient:
    """The API server of one cluster.

    All requests wait as long as the server demands by `Retry-After`. While it does not answer at
    all, `monitor` probes it on behalf of all watches, which wait in `wait_until_reachable`.
    """

    def __init__(self, load: Load, settings: ClientSettings | None = None) -> None:
        self.settings = settings if settings is not None else ClientSettings()
        self.version = (0, 0)
        """Major and minor version of the server; zeros until it has answered."""
        self.server = ""
        """Its address, without anything secret."""
        self.requests = 0
        self.list_turn = asyncio.Semaphore(1)
        """Lists run one after another, owners first, so that not all are in memory at once."""
        self._load = load
        self._current: tuple[Credentials, aiohttp.ClientSession] | None = None
        self._loaded_at = 0.0
        self._loading = asyncio.Lock()
        self._is_reachable, self._needs_probe = asyncio.Event(), asyncio.Event()
        self._paused_until = 0.0
        self._streams: set[ResponseStream] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        current, self._current = self._current, None
        if current is not None:
            await current[1].close()

    # Credentials

    async def _authenticated(self) -> tuple[Credentials, aiohttp.ClientSession]:
        """The credentials and a session for them; loads them where they are outdated."""
        current = self._current
        if current is None or self._is_outdated(current[0]):
            if current is not None and self._loading.locked() and not _is_expired(current[0]):
                # They are being renewed, which may take a program a while, and still do.
                return current
            async with self._loading:
                if self._current is current:
                    await self._reload()
        if self._current is None:
            raise UnreachableError("no credentials have been loaded")
        return self._current

    def _is_outdated(self, credentials: Credentials) -> bool:
        age = monotonic() - self._loaded_at
        if credentials.expires is not None:
            return _is_expired(credentials, RENEWED_BEFORE) and age > REFUSED_PAUSE
        return not credentials.is_costly and age > RENEWED_EVERY

    async def _reload(self) -> None:
        before = self._current
        try:
            credentials = await self._load()
            if before is not None and credentials.tls == before[0].tls:
                self._current, self.server = (credentials, before[1]), credentials.address
                return
            context = await blocking(lambda: make_tls_context(credentials.tls))
        except UnreachableError:
            # A file that is being replaced is complete again in a moment; until then the
            # credentials in use may do.
            if before is not None:
                return
            raise
        except OSError as error:
            if before is not None:
                return
            raise UnreachableError(
                f"the certificates cannot be used: {describe_tls_error(error)}"
            ) from None
        finally:
            self._loaded_at = monotonic()
        self._current, self.server = (credentials, _make_session(context)), credentials.address
        if before is not None:
            # Its watches break off and continue from their positions on the new session.
            await before[1].close()

    async def _replace_refused(self, used: Credentials) -> bool:
        """Load credentials again that were refused; return whether they differ now."""
        async with self._loading:
            current = self._current
            is_due = monotonic() - self._loaded_at > REFUSED_PAUSE
            if current is not None and current[0] is used and is_due:
                await self._reload()
        return self._current is not None and self._current[0] != used

    # Requests

    async def get(
        self, path: str, parameters: Mapping[str, str] | None = None, *, accept: str = ""
    ) -> bytes:
        """GET a whole answer. Raises `UnreachableError` and `ApiError`."""
        return await self._request(path, parameters or {}, accept, None)

    async def post(self, path: str, body: bytes) -> bytes:
        """POST JSON and return the whole answer. Raises `UnreachableError` and `ApiError`."""
        return await self._request(path, {}, "", body)

    async def _request(
        self, path: str, parameters: Mapping[str, str], accept: str, body: bytes | None
    ) -> bytes:
        limit = self.settings.answer_timeout
        await self._wait_for_retry_after()
        # Credentials have limits of their own: an exec plugin may take longer than an answer.
        await self._authenticated()
        try:
            async with asyncio.timeout(limit):
                response = await self._send(path, parameters, accept, body=body)
                try:
                    return await _read_whole(response)
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
        await self._authenticated()
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
        while True:
            credentials, session = await self._authenticated()
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
                    proxy=credentials.proxy or None, allow_redirects=False,
                )  # fmt: skip
            except (aiohttp.ClientError, OSError, ValueError) as error:
                self.request_probe()
                raise UnreachableError(
                    f"the API server at {credentials.address} cannot be reached:"
                    f" {describe_transport_error(error)}"
                ) from None
            if response.status < 300:
                return response
            refusal = await _read_refusal(response)
            if refusal.status == 401 and await self._replace_refused(credentials):
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
        self._is_reachable.clear()
        self._needs_probe.set()

    async def wait_until_reachable(self) -> None:
        """Return while the API server answers; wait until it does."""
        if not self._is_reachable.is_set():
            await self._is_reachable.wait()
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
                self._is_reachable.clear()
                lost_at = started if lost_at is None else lost_at
                on_change(str(error))
                await sleep(backoff.failed())
                continue
            backoff.succeeded()
            if lost_at is not None:
                self._close_silent_streams(lost_at)
                lost_at = None
            on_change("")
            self._is_reachable.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.settings.probe_every):
                    await self._needs_probe.wait()
                # What failed may fail again: not before the first wait of a retry.
                await sleep(backoff.first * random.uniform(0.5, 1))  # nosec B311 # spreads requests, guards nothing

    def _close_silent_streams(self, since: float) -> None:
        """Close the streams without data since an outage began: they may be half open."""
        for stream in list(self._streams):
            if stream.last_data < since:
                stream.response.close()

    async def _probe(self) -> None:
        """GET /version. Raises `UnreachableError` where no Kubernetes API server answers."""
        limit = self.settings.probe_timeout
        # Not within the limit: an exec plugin may take longer, and must be able to finish.
        await self._authenticated()
        try:
            async with asyncio.timeout(limit):
                response = await self._send("/version", {}, "")
                body = await _read_whole(response)
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


def _is_expired(credentials: Credentials, early: float = 0.0) -> bool:
    """Whether credentials end within `early` seconds."""
    expires = credentials.expires
    return expires is not None and expires - datetime.now(UTC).timestamp() < early


def _make_session(context: ssl.SSLContext) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(
        limit=0, ssl=context, keepalive_timeout=30, socket_factory=_make_socket
    )
    return aiohttp.ClientSession(
        connector=connector, trust_env=False, headers={"user-agent": "almenara-kubernetes"},
        cookie_jar=aiohttp.DummyCookieJar(),
    )  # fmt: skip


def _make_socket(address: tuple[Any, ...]) -> socket.socket:
    made = socket.socket(*address[:3])
    for level, option, value in KEEPALIVE:
        made.setsockopt(level, option, value)
    return made


async def _read_whole(response: aiohttp.ClientResponse) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > LONGEST_ANSWER:
            response.close()
            raise AnswerTooLongError(f"an answer is longer than {LONGEST_ANSWER:,} bytes")
        parts.append(part)
    return b"".join(parts)


async def _read_refusal(response: aiohttp.ClientResponse) -> ApiError:
    """The error that an answer is. Its reason is empty where it is not a Kubernetes `Status`."""
    body = b""
    with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
        async with asyncio.timeout(5):
            body = await response.content.read(LONGEST_ERROR)
    response.release()
    try:
        status = msgspec.json.decode(body, type=_Status)
    except DECODE_ERRORS:
        # A page of a proxy says nothing in its first characters; a plain line does.
        text = f"it answers {response.status}"
        if response.content_type == "text/plain" and body:
            text += f": {' '.join(body[:200].decode('utf-8', 'replace').split())}"
        elif response.status < 400:
            text += ", a redirect"
        elif body:
            text += f" with {response.content_type[:40]}"
        return ApiError(response.status, "", text)
    text = status.message or f"it answers {response.status}"
    return ApiError(response.status, status.reason or "Unknown", text[:500])


def describe_transport_error(error: BaseException) -> str:
    """A failure on the way to the server in one line, without a proxy's password."""
    match error:
        case aiohttp.ClientHttpProxyError():
            return f"the proxy answers {error.status}"
        case aiohttp.ClientProxyConnectionError():
            return f"the proxy cannot be reached: {describe_os_error(error.os_error)}"
        case aiohttp.ClientConnectorCertificateError():
            return f"its certificate is not trusted: {describe_tls_error(error.certificate_error)}"
        case aiohttp.ClientConnectorDNSError():
            return f"the name {error.host} cannot be resolved"
        case aiohttp.ClientConnectorError():
            return describe_os_error(error.os_error)
        case aiohttp.InvalidURL() | ValueError():
            # The text quotes the address, and a proxy's address may hold a password.
            return "its address or that of its proxy is not a URL"
        case OSError():
            return describe_os_error(error)
    return describe_error(error)


def describe_os_error(error: OSError) -> str:
    """The message of the operating system, or of TLS, without numbers."""
    if isinstance(error, ssl.SSLError):
        return describe_tls_error(error)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return error.strerror or describe_error(error)


def describe_tls_error(error: BaseException) -> str:
    """What is wrong with TLS, without the source line of OpenSSL."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return describe_error(error)
