"""One cluster's API server: how it is found, who we are there, and whether it still answers."""

import asyncio
import contextlib
import random
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Self

import aiohttp
import msgspec

from almenara.sdk import Backoff, blocking, monotonic, sleep
from almenara_kubernetes.credentials import (
    Credentials,
    UnreachableError,
    read_credentials,
    sentence,
    tls_context,
)
from almenara_kubernetes.objects import UNREADABLE
from almenara_kubernetes.settings import ClusterSettings, KubernetesSettings

RENEWED_EVERY: Final = 60.0
"""Seconds after which credentials are read again: a token in a file is replaced in good time."""
RENEWED_BEFORE: Final = 60.0
"""Seconds before the end of credentials at which they are made anew."""
REFUSED_PAUSE: Final = 5.0
"""Seconds between readings of credentials that the API server refuses."""
PROBE_LIMIT: Final = 4.0
"""Seconds between probes of an API server that does not answer, at most."""
SPREAD: Final = 1.0
"""Seconds over which everybody goes on after an outage."""
HOLD_LIMIT: Final = 120.0
"""Seconds that an API server can make us wait by Retry-After."""
LONGEST_ERROR: Final = 65_536
LONGEST_ANSWER: Final = 64 * 1024**2
"""Bytes of an answer that is no watch, once it is unpacked: a page of a list is a tenth of it."""
KEEPALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 3), ("TCP_KEEPCNT", 3))
        if hasattr(socket, name)
    ),
)


class RefusedError(Exception):
    """The API server answered with an error."""

    def __init__(self, status: int, reason: str, text: str) -> None:
        super().__init__(text)
        self.status, self.reason = status, reason


class _Status(msgspec.Struct):
    """https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/"""

    message: str = ""
    reason: str = ""
    code: int = 0


def _socket(address: tuple[Any, ...]) -> socket.socket:
    made = socket.socket(*address[:3])
    for level, option, value in KEEPALIVE:
        made.setsockopt(level, option, value)
    return made


def _session(context: ssl.SSLContext | None) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(
        limit=0, ssl=context or True, keepalive_timeout=30, socket_factory=_socket
    )
    return aiohttp.ClientSession(
        connector=connector, trust_env=False, headers={"user-agent": "almenara-kubernetes"}
    )


class Stream:
    """The answer of a watch or a log, as it comes."""

    def __init__(self, response: aiohttp.ClientResponse, silence: float | None) -> None:
        self.response, self.heard = response, monotonic()
        self._silence = silence

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes as they come. Raises `UnreachableError` where they break off or stay away."""
        content = self.response.content
        try:
            while True:
                async with asyncio.timeout(self._silence):
                    chunk = await content.readany()
                if not chunk:
                    return
                self.heard = monotonic()
                yield chunk
        except TimeoutError:
            raise UnreachableError(f"nothing was heard for {self._silence:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise UnreachableError(f"the connection broke: {sentence(error)}") from None


class Connection:
    """The API server of one cluster.

    Everybody who asks it waits where it asked us to (`Retry-After`), and while it does not answer
    at all: then one probe asks in the name of all.
    """

    def __init__(self, cluster: ClusterSettings, settings: KubernetesSettings) -> None:
        self.cluster, self.settings = cluster, settings
        self.version = (0, 0)
        """Major and minor version of the server, once it has said."""
        self.server = ""
        """Its address, without anything secret."""
        self.requests = 0
        self.lists = asyncio.Semaphore(1)
        """Lists are had one after another: of owners first, and never all in memory at once."""
        self._held: tuple[Credentials, aiohttp.ClientSession] | None = None
        self._tls: tuple[object, ...] = ()
        self._read_at = 0.0
        self._renewing = asyncio.Lock()
        self._reachable, self._doubted = asyncio.Event(), asyncio.Event()
        self._held_until = 0.0
        self._streams: set[Stream] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        held, self._held = self._held, None
        if held is not None:
            await held[1].close()

    # Who we are

    async def _current(self) -> tuple[Credentials, aiohttp.ClientSession]:
        held = self._held
        if held is None or self._outdated(held[0]):
            async with self._renewing:
                if self._held is held:
                    await self._renew()
        if self._held is None:
            raise UnreachableError("there are no credentials yet")
        return self._held

    def _outdated(self, held: Credentials) -> bool:
        age = monotonic() - self._read_at
        if held.expires is not None:
            left = held.expires - datetime.now(UTC).timestamp()
            return left < RENEWED_BEFORE and age > REFUSED_PAUSE
        return not held.costly and age > RENEWED_EVERY

    async def _renew(self) -> None:
        self._read_at = monotonic()
        try:
            found = await blocking(lambda: read_credentials(self.cluster))
            tls = await blocking(found.tls)
            context = await blocking(lambda: tls_context(found)) if tls != self._tls else None
        except (UnreachableError, OSError, ssl.SSLError) as error:
            # A file that is being replaced is whole again in a moment, and what we have may do.
            if self._held is not None:
                return
            raise UnreachableError(sentence(error)) from None
        before, self.server = self._held, found.host
        if context is None and before is not None:
            self._held = found, before[1]
            return
        self._tls = tls
        self._held = found, _session(context)
        if before is not None:
            # Who follows a watch on it goes on from its position on the new one.
            await before[1].close()

    async def _refused_credentials(self, used: Credentials) -> bool:
        """Read credentials that were refused again; whether they are others now."""
        async with self._renewing:
            if self._held and self._held[0] is used and monotonic() - self._read_at > REFUSED_PAUSE:
                await self._renew()
        return self._held is not None and self._held[0] != used

    # RequestInfo

    async def get(
        self,
        path: str,
        parameters: Mapping[str, str] | None = None,
        *,
        accept: str = "",
        body: bytes | None = None,
    ) -> bytes:
        """The whole answer; with a `body`, to what that asks. Raises `UnreachableError` and
        `RefusedError`."""
        limit = self.settings.answer_timeout
        await self._allowed()
        try:
            async with asyncio.timeout(limit):
                response = await self._send(path, parameters or {}, accept, body=body)
                try:
                    return await _whole(response)
                finally:
                    response.release()
        except TimeoutError:
            self.doubt()
            raise UnreachableError(f"no whole answer within {limit:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, UnreachableError):
                raise
            self.doubt()
            raise UnreachableError(f"the answer broke off: {sentence(error)}") from None

    @contextlib.asynccontextmanager
    async def stream(
        self,
        path: str,
        parameters: Mapping[str, str],
        *,
        silence: float | None,
        accept: str = "",
    ) -> AsyncIterator[Stream]:
        """An answer as it comes, given up after `silence` seconds without any of it.

        Raises `UnreachableError` and `RefusedError`.
        """
        limit = self.settings.answer_timeout
        await self._allowed()
        try:
            async with asyncio.timeout(limit):
                # Each change is told at once; compressing so little costs both ends for nothing.
                response = await self._send(path, parameters, accept, encoding="identity")
        except TimeoutError:
            self.doubt()
            raise UnreachableError(f"no answer within {limit:g} s") from None
        stream = Stream(response, silence)
        self._streams.add(stream)
        try:
            yield stream
        finally:
            self._streams.discard(stream)
            response.close()

    async def _allowed(self) -> None:
        """Return once the API server is willing to be asked again."""
        while (wait := self._held_until - monotonic()) > 0:
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
            credentials, session = await self._current()
            headers = {"accept": accept or "application/json", "accept-encoding": encoding}
            if credentials.authorization:
                headers["authorization"] = credentials.authorization
            if body is not None:
                headers["content-type"] = "application/json"
            self.requests += 1
            try:
                response = await session.request(
                    "GET" if body is None else "POST", credentials.host + path,
                    params=dict(parameters), headers=headers, data=body,
                    timeout=aiohttp.ClientTimeout(
                        total=None, sock_connect=self.settings.connect_timeout
                    ),
                    server_hostname=credentials.server_name or None, proxy=credentials.proxy,
                    allow_redirects=False,
                )  # fmt: skip
            except (aiohttp.ClientError, OSError, ValueError) as error:
                self.doubt()
                raise UnreachableError(
                    f"the API server at {credentials.host} cannot be reached: {sentence(error)}"
                ) from None
            if response.status < 300:
                return response
            refused = await _refusal(response)
            if refused.status == 401 and await self._refused_credentials(credentials):
                continue
            if refused.status in (429, 503):
                self._hold(response.headers.get("retry-after", ""))
            raise refused

    def _hold(self, retry_after: str) -> None:
        if retry_after.isdigit():
            until = monotonic() + min(float(retry_after), HOLD_LIMIT)
            self._held_until = max(self._held_until, until)

    # Whether it answers

    def doubt(self) -> None:
        """Something failed on the way: have a look before anybody else asks."""
        self._reachable.clear()
        self._doubted.set()

    async def reachable(self) -> None:
        """Return while the API server answers; wait until it does."""
        if not self._reachable.is_set():
            await self._reachable.wait()
            await sleep(random.uniform(0, SPREAD))  # nosec B311 # spreads requests, guards nothing

    async def keep(self, told: Callable[[str], None]) -> None:
        """Look again and again whether the API server answers, until cancelled.

        `told` hears why not, and an empty text when it does again.
        """
        backoff = Backoff(self.settings.backoff_first, PROBE_LIMIT)
        lost: float | None = None
        while True:
            self._doubted.clear()
            began = monotonic()
            try:
                await self._probe()
            except UnreachableError as error:
                self._reachable.clear()
                lost = began if lost is None else lost
                told(str(error))
                await sleep(backoff.failed())
                continue
            backoff.succeeded()
            if lost is not None:
                self._cut(lost)
                lost = None
            told("")
            self._reachable.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.settings.probe_every):
                    await self._doubted.wait()
                # What failed may fail once more: no faster than the first wait.
                await sleep(backoff.first * random.uniform(0.5, 1))  # nosec B311 # spreads requests, guards nothing

    def _cut(self, since: float) -> None:
        """End what has not been heard of since an outage began: it may be half open."""
        for stream in list(self._streams):
            if stream.heard < since:
                stream.response.close()

    async def _probe(self) -> None:
        """Ask for the version. Raises `UnreachableError` where it cannot be had."""
        limit = self.settings.probe_timeout
        try:
            async with asyncio.timeout(limit):
                response = await self._send("/version", {}, "")
                self._note_version(await _whole(response))
        except RefusedError as error:
            if error.status == 401:
                raise UnreachableError(
                    f"the API server at {self.server} does not know who we are (401): the token or"
                    " the certificate is wrong, or has expired"
                ) from None
            if error.status >= 500:
                raise UnreachableError(
                    f"the API server at {self.server} answers {error.status}: {error}"
                ) from None
        except TimeoutError:
            raise UnreachableError(
                f"the API server at {self.server} has not answered within {limit:g} s"
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, UnreachableError):
                raise
            raise UnreachableError(
                f"the API server at {self.server} cannot be reached: {sentence(error)}"
            ) from None

    def _note_version(self, body: bytes) -> None:
        with contextlib.suppress(*UNREADABLE, KeyError, ValueError):
            told = msgspec.json.decode(body, type=dict[str, Any])
            self.version = int(told["major"]), int(str(told["minor"]).rstrip("+"))


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > LONGEST_ANSWER:
            response.close()
            raise UnreachableError(f"an answer is longer than {LONGEST_ANSWER:,} bytes")
        parts.append(part)
    return b"".join(parts)


async def _refusal(response: aiohttp.ClientResponse) -> RefusedError:
    """The error that an answer is."""
    body = b""
    with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
        async with asyncio.timeout(5):
            body = await response.content.read(LONGEST_ERROR)
    response.release()
    try:
        status = msgspec.json.decode(body, type=_Status)
    except UNREADABLE:
        status = _Status(message=" ".join(body[:200].decode("utf-8", "replace").split()))
    text = status.message or f"it answers {response.status}"
    return RefusedError(response.status, status.reason, text[:500])
