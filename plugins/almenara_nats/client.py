"""Connects to NATS and notices when a connection is no longer usable."""

import asyncio
import re
import ssl
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final
from urllib.parse import urlsplit

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError, NoRespondersError
from nats.js import JetStreamContext

from almenara.config import redact_secrets
from almenara.sdk import finish_within
from almenara_nats.credentials import read_credentials, read_seed
from almenara_nats.errors import (
    NatsUnavailableError,
    PermissionDeniedError,
    describe_nats_error,
    suggest_connection_remedy,
)
from almenara_nats.settings import API_PREFIX, NatsSettings, TlsSettings

log = structlog.get_logger(__name__)

USERINFO: Final = re.compile(r"(?<=://)[^/@\s]+@")
VIOLATION: Final = re.compile(
    r"permissions violation for (publish|subscription) to \"?([^\s\"']+)", re.IGNORECASE
)
CLOSE_TIMEOUT: Final = 1.0
"""Seconds until a connection that does not close is aborted."""
FLUSH_TIMEOUT: Final = 10
"""Seconds until a flush without an answer fails."""
CONNECT_STAGGER: Final = 0.5
"""Seconds after which the next server is tried as well: one that is frozen accepts connections and
sends nothing."""
RESEND_AFTER: Final = 0.5
"""Seconds after which a request without an answer is sent again: a server without a leader drops
it."""
REPEATABLE: Final = re.compile(
    r"\.(STREAM\.INFO|STREAM\.MSG\.GET|CONSUMER\.(INFO|CREATE|DURABLE\.CREATE)\.[^.]+)\.[^.]+$"
)
"""Requests of the JetStream API that have the same result when they are sent twice."""
WATCH_INTERVAL: Final = 0.25
READ_PAUSE: Final = 0.02
"""Seconds between two reads of the socket while messages arrive. Reading one message, and making it
durable, costs about as much as doing both for a hundred."""
REMEMBERED_SUBJECTS: Final = 1_000

MessageHandler = Callable[[bytes, bytes, bytes, bytes], None]
"""Receives one message as it arrived: subject, reply, payload and header block."""
ViolationHandler = Callable[[str, str], None]
"""Receives the action (`publish` or `subscription`) and the subject that the server denied."""


class PlaintextRefusedError(NatsError):
    """TLS is required by the settings and not offered by the server."""

    def __str__(self) -> str:
        return "the server does not offer TLS, which tls:// or the section tls requires"


class Connection(Client):
    """A client that passes the messages of some subscriptions on without decoding them.

    The way of `Client` costs a queue and a task switch per message, and a subject or header that is
    not UTF-8 ends its reading for good. Here such a message is a value like any other.

    Permission violations are reported by the server without a reference to the request. They are
    matched by subject, so that a denied request fails at once and names its subject.
    """

    def __init__(self, *, requires_tls: bool = False, api_prefix: str = API_PREFIX) -> None:
        super().__init__()
        self.requires_tls = requires_tls
        self.api_prefix = api_prefix
        """The first words of every subject of the JetStream API."""
        self.message_handlers: dict[int, MessageHandler] = {}
        self.on_violation: ViolationHandler | None = None
        self.denied_subscriptions: set[str] = set()
        self._requests_by_subject: dict[str, set[asyncio.Future[None]]] = defaultdict(set)
        """Futures of requests by lower-case subject; they fail when the subject is denied."""
        self._subjects: dict[str, str] = {}
        """Recently used subjects by their lower-case form, the only one that errors have."""
        self._is_read_paused = False
        self.collects_messages = True
        """Whether messages are read in groups, which delays each by up to `READ_PAUSE`."""
        self.awaits_leaders = False
        """Whether a request that no server can answer now is sent again until its timeout."""
        self.is_suspect = False
        """Whether the server has stopped responding, so that nothing is sent when it is closed."""

    @property
    def server_info(self) -> dict[str, Any]:
        """The INFO of the server."""
        return self._server_info

    def jetstream(self, **options: Any) -> JetStreamContext:
        """The JetStream API under the prefix of the settings."""
        return super().jetstream(prefix=self.api_prefix, **options)

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        # The last moment before CONNECT, which carries the user and the password.
        if initial_connection and self.requires_tls and not self._has_tls():
            if not (info.get("tls_required") or info.get("tls_available")):
                raise PlaintextRefusedError
            info["tls_required"] = True
        await super()._process_info(info, initial_connection=initial_connection)

    def _has_tls(self) -> bool:
        is_websocket = self._current_server is not None and (
            self._current_server.uri.scheme == "wss"
        )
        return is_websocket or bool(self.options["tls_handshake_first"])

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        handler = self.message_handlers.get(sid)
        if handler is not None:
            handler(bytes(subject), bytes(reply), data, headers or b"")
            if self.collects_messages and not self._is_read_paused:
                self._pause_reading()
            return
        try:
            await super()._process_msg(sid, subject, reply, data, headers)
        except (UnicodeError, IndexError, ValueError):
            log.warning("NATS sent a response with invalid headers")

    def _pause_reading(self) -> None:
        """Let the messages that follow collect in the kernel; the first one is not delayed."""
        writer = getattr(self._transport, "_io_writer", None)
        if writer is None or writer.transport.is_closing():
            return
        transport = writer.transport
        self._is_read_paused = True
        transport.pause_reading()

        def resume() -> None:
            self._is_read_paused = False
            if not transport.is_closing():
                transport.resume_reading()

        asyncio.get_running_loop().call_later(READ_PAUSE, resume)

    async def subscribe_raw(
        self, subject: str, handler: MessageHandler
    ) -> Callable[[], Awaitable[None]]:
        """Pass every message on `subject` to `handler`; the returned function unsubscribes."""
        self._remember(subject)
        subscription = await self.subscribe(subject)
        sid = subscription._id
        self.message_handlers[sid] = handler

        async def unsubscribe() -> None:
            # The server continues to answer pull requests while an inbox has a subscription.
            with suppress(NatsError, OSError):
                await subscription.unsubscribe()
            self.message_handlers.pop(sid, None)

        return unsubscribe

    async def publish_noted(self, subject: str, payload: bytes, reply: str = "") -> None:
        """Publish, and name the subject in the report if it is denied."""
        self._remember(subject)
        await self.publish(subject, payload, reply=reply)

    async def flush(self, timeout: int = FLUSH_TIMEOUT) -> None:  # noqa: ASYNC109  # the client's
        """Return once the server has processed everything that was sent before."""
        # The client writes its PING past what is pending, and the PONG would confirm less.
        await self._flush_pending(force_flush=True)
        await super().flush(timeout)

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        timeout: float = 0.5,  # noqa: ASYNC109  # the signature of the client
        old_style: bool = False,
        headers: dict[str, Any] | None = None,
    ) -> Msg:
        """Send a request. Raises `PermissionDeniedError` as soon as the server denies it.

        One that may be sent twice is sent again while it is not answered, until the timeout.
        """
        self._raise_if_inbox_denied(subject)
        self._remember(subject)
        denial: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        pending = self._requests_by_subject[subject.lower()]
        pending.add(denial)
        requests: list[asyncio.Future[Msg]] = []
        end = time.monotonic() + timeout
        pause = RESEND_AFTER if is_repeatable(subject, headers) else timeout
        try:
            while True:
                left = max(end - time.monotonic(), 0.0)
                call = super().request(subject, payload, left, old_style, headers)
                requests.append(asyncio.ensure_future(call))
                answer = await self._wait_for_answer(
                    requests, denial, pause if left > pause else None
                )
                if denial.done():
                    self._raise_if_inbox_denied(subject)
                    raise PermissionDeniedError(f"the server denies publishing to {subject}")
                if answer is not None:
                    return answer.result()
        finally:
            pending.discard(denial)
            if not pending:
                self._requests_by_subject.pop(subject.lower(), None)
            denial.cancel()
            for request in requests:
                request.cancel()

    async def _wait_for_answer(
        self,
        requests: "list[asyncio.Future[Msg]]",
        denial: "asyncio.Future[None]",
        pause: float | None,
    ) -> "asyncio.Future[Msg] | None":
        """Return a request that is answered or has failed; None where it should be sent again."""
        waiting: set[asyncio.Future[Any]] = {*requests, denial}
        await asyncio.wait(waiting, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
        answered = [request for request in requests if request.done()]
        if not answered or denial.done():
            return None
        is_leaderless = isinstance(answered[0].exception(), NoRespondersError)
        if is_leaderless and self.awaits_leaders and pause is not None:
            requests.remove(answered[0])
            await asyncio.wait({denial}, timeout=pause)
            return None
        return answered[0]

    def note_violation(self, text: str) -> bool:
        """Handle the text of a permission violation; False for another error."""
        match = VIOLATION.search(text)
        if match is None:
            return False
        action, subject = match[1].lower(), match[2].lower()
        is_inbox = subject.startswith(f"{self._inbox_prefix.decode()}.".lower())
        if action == "subscription":
            self.denied_subscriptions.add(self._subjects.get(subject, subject))
        denied = (
            [future for futures in self._requests_by_subject.values() for future in futures]
            if action == "subscription" and is_inbox
            else list(self._requests_by_subject.get(subject, ()))
        )
        for future in denied:
            if not future.done():
                future.set_result(None)
        if self.on_violation is not None:
            self.on_violation(action, self._subjects.get(subject, subject))
        return True

    def _raise_if_inbox_denied(self, subject: str) -> None:
        prefix = f"{self._inbox_prefix.decode()}.".lower()
        if any(denied.lower().startswith(prefix) for denied in self.denied_subscriptions):
            raise PermissionDeniedError(
                f"the server denies subscribing to {self._inbox_prefix.decode()}.>, where the"
                f" response of {subject} arrives"
            )

    def _remember(self, subject: str) -> None:
        if len(self._subjects) >= REMEMBERED_SUBJECTS:
            self._subjects.clear()
        self._subjects[subject.lower()] = subject

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        try:
            await super()._close(status, do_cbs)
        except OSError:
            # The client sends what is pending before it ends its subscriptions. A socket that
            # breaks then leaves their tasks pending, and no later call ends them.
            self._pending, self._pending_data_size = [], 0
            self._status = Client.DISCONNECTED
            await super()._close(status, do_cbs)

    async def wait_closed(self) -> None:
        """Return when the connection is no longer usable."""
        while self.is_connected:  # noqa: ASYNC110  # the client has no event for it
            await asyncio.sleep(WATCH_INTERVAL)


def redact_nats_secrets(text: str, settings: NatsSettings) -> str:
    """Return a text without the secrets of the settings, for messages and logs."""
    text = redact_secrets(text, (settings.password, settings.token))
    return USERINFO.sub("***@", text)


def create_tls_context(tls: TlsSettings | None) -> ssl.SSLContext | None:
    """Return the TLS context of the settings. Raises `NatsUnavailableError` that names the file
    that cannot be read."""
    if tls is None:
        return None
    try:
        context = ssl.create_default_context(cafile=str(tls.ca) if tls.ca else None)
    except (OSError, ssl.SSLError) as error:
        raise NatsUnavailableError(
            f"the certificate authority in {tls.ca} (tls.ca) cannot be read: {error}"
        ) from None
    if tls.certificate:
        try:
            context.load_cert_chain(str(tls.certificate), str(tls.key) if tls.key else None)
        except (OSError, ssl.SSLError) as error:
            raise NatsUnavailableError(
                f"the client certificate {tls.certificate} with key {tls.key}"
                f" (tls.certificate, tls.key) cannot be read: {error}"
            ) from None
    return context


def is_repeatable(subject: str, headers: dict[str, Any] | None) -> bool:
    """Whether a request has the same result when it is sent twice: a message with an id is stored
    once."""
    return "Nats-Msg-Id" in (headers or ()) or REPEATABLE.search(subject) is not None


async def connect(settings: NatsSettings) -> Connection:
    """Return a connection to the first server that accepts one. It does not reconnect.

    A client that reconnects keeps subscriptions and requests whose state on the server is unknown.
    A new connection starts from a known state.

    Raises `NatsUnavailableError` with the reason of each server.
    """
    attempts: list[asyncio.Task[Connection]] = []
    try:
        for server in settings.servers:
            attempts.append(asyncio.create_task(_connect_to(server, settings)))
            if (connection := await _first_connected(attempts, CONNECT_STAGGER)) is not None:
                return connection
        if (connection := await _first_connected(attempts, None)) is not None:
            return connection
        errors = [error for attempt in attempts if (error := attempt.exception()) is not None]
        if others := [error for error in errors if not isinstance(error, NatsUnavailableError)]:
            raise others[0]
        raise NatsUnavailableError("; ".join(dict.fromkeys(map(str, errors))))
    finally:
        await _end_attempts(attempts)


async def _first_connected(
    attempts: list[asyncio.Task[Connection]], seconds: float | None
) -> Connection | None:
    """Return the connection of an attempt, which leaves the list; None where all have failed, or
    none has succeeded within some seconds."""
    end = None if seconds is None else time.monotonic() + seconds
    while pending := [attempt for attempt in attempts if not attempt.done()]:
        left = None if end is None else max(end - time.monotonic(), 0.0)
        done, _ = await asyncio.wait(pending, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        for attempt in done:
            if attempt.exception() is None:
                attempts.remove(attempt)
                return attempt.result()
        if not done:
            return None
    return None


async def _end_attempts(attempts: list[asyncio.Task[Connection]]) -> None:
    """Cancel the attempts that are left, and close a connection that was made meanwhile."""
    for attempt in attempts:
        attempt.cancel()
    if attempts:
        await asyncio.wait(attempts)
    for attempt in attempts:
        if not attempt.cancelled() and attempt.exception() is None:
            await close(attempt.result())


async def _connect_to(server: str, settings: NatsSettings) -> Connection:
    options = create_options(settings)
    is_secure = urlsplit(server).scheme in ("tls", "wss")
    connection = Connection(
        requires_tls=is_secure or settings.requires_tls, api_prefix=settings.jetstream_prefix
    )
    errors = list[BaseException]()

    async def note_error(error: Exception) -> None:
        errors.append(error)
        del errors[:-5]
        if connection.note_violation(str(error)) or connection.is_connected:
            text = redact_nats_secrets(describe_nats_error(error), settings)
            log.warning("NATS reports an error", reason=text)

    try:
        async with asyncio.timeout(settings.connect_timeout * 3):
            await connection.connect(servers=[server], error_cb=note_error, **options)
    except asyncio.CancelledError:
        connection.is_suspect = True
        await close(connection)
        raise
    except Exception as error:
        await close(connection)
        cause = errors[-1] if errors else error
        text = redact_nats_secrets(describe_nats_error(cause), settings)
        requires_login = connection.server_info.get("auth_required")
        if requires_login and isinstance(cause, ConnectionError):
            # The reset that follows a refused login sometimes overtakes the refusal.
            text += ", after it required authentication, which has probably failed"
        raise NatsUnavailableError(
            f"NATS at {redact_nats_secrets(server, settings)} cannot be reached: {text}."
            f" {suggest_connection_remedy(text)}"
        ) from None
    return connection


def create_options(settings: NatsSettings) -> dict[str, Any]:
    """Return the options of `Client.connect`. Raises `NatsUnavailableError` for a wrong file."""
    options: dict[str, Any] = {
        "name": settings.name,
        "allow_reconnect": False,
        "max_reconnect_attempts": 1,
        "reconnect_time_wait": 0,
        "connect_timeout": settings.connect_timeout,
        "ping_interval": settings.ping_interval,
        "max_outstanding_pings": settings.max_outstanding_pings,
        "user": settings.user or None,
        "password": settings.password.reveal() if settings.password else None,
        "token": settings.token.reveal() if settings.token else None,
        "tls": create_tls_context(settings.tls),
        "tls_hostname": (settings.tls.hostname or None) if settings.tls else None,
        "tls_handshake_first": settings.tls.handshake_first if settings.tls else False,
        "inbox_prefix": settings.inbox_prefix,
    }
    if settings.credentials is not None:
        credentials = read_credentials(settings.credentials)
        options["user_jwt_cb"] = lambda: bytearray(credentials.jwt.encode())
        options["signature_cb"] = credentials.sign
    if settings.nkey is not None:
        options["nkeys_seed_str"] = read_seed(settings.nkey)
    return options


async def close(connection: Connection) -> None:
    """Close a connection in any state; a frozen server does not delay it."""
    connection.message_handlers.clear()
    writer = getattr(connection._transport, "_io_writer", None)
    if writer is not None and connection.is_suspect:
        writer.transport.abort()
    with suppress(TimeoutError, OSError, NatsError, AssertionError):
        await finish_within(CLOSE_TIMEOUT, connection.close())
    if writer is not None:
        # Unsent bytes to a frozen server would keep the socket open for minutes.
        writer.transport.abort()


@asynccontextmanager
async def connected(settings: NatsSettings) -> AsyncIterator[Connection]:
    """Connect for the length of a block. Raises `NatsUnavailableError`."""
    connection = await connect(settings)
    try:
        yield connection
    finally:
        await close(connection)
