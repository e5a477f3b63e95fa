"""Connects to NATS, and notices when the connection is no good any more."""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError

from almenara.config import redact_secrets
from almenara_nats.settings import NatsSettings

log = structlog.get_logger(__name__)

USERINFO: Final = re.compile(r"(?<=://)[^/@\s]+@")
CLOSE_TIMEOUT: Final = 1.0
"""Seconds a connection may take to say goodbye before it is cut."""
WATCH_INTERVAL: Final = 0.25
GATHER: Final = 0.02
"""Seconds between two readings of the socket while messages come. To read a message alone, and to
make it durable alone, costs about as much as to do both with a hundred."""

Take = Callable[[bytes, bytes, bytes, bytes], None]
"""Takes one message: subject, reply, payload and headers, the bytes as they came."""


class NatsUnavailableError(ConnectionError):
    """No server could be reached, or the connection broke; the text says where and why."""


class Connection(Client):
    """A client that hands the messages of chosen subscriptions over as they came.

    Client's own way costs a queue and a task step a message, and one subject or header that is
    not UTF-8 ends its reading for good. Here such a message is a value like any other.
    """

    def __init__(self) -> None:
        super().__init__()
        self.takers: dict[int, Take] = {}
        self._resting = False

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        take = self.takers.get(sid)
        if take is not None:
            take(bytes(subject), bytes(reply), data, headers or b"")
            if not self._resting:
                self._rest()
            return
        try:
            await super()._process_msg(sid, subject, reply, data, headers)
        except (UnicodeError, IndexError, ValueError):
            log.warning("NATS answered with headers that cannot be read")

    def _rest(self) -> None:
        """Let what follows closely gather in the kernel; the first message is not held up."""
        writer = getattr(self._transport, "_io_writer", None)
        if writer is None or writer.transport.is_closing():
            return
        transport = writer.transport
        self._resting = True
        transport.pause_reading()

        def read_on() -> None:
            self._resting = False
            if not transport.is_closing():
                transport.resume_reading()

        asyncio.get_running_loop().call_later(GATHER, read_on)

    async def follow(self, subject: str, take: Take) -> Callable[[], Awaitable[None]]:
        """Give every message on `subject` to `take`; the returned function ends that."""
        subscription = await self.subscribe(subject)
        sid = subscription._id
        self.takers[sid] = take

        async def unfollow() -> None:
            # The server goes on answering requests of an inbox as long as somebody listens there.
            with suppress(NatsError, OSError):
                await subscription.unsubscribe()
            self.takers.pop(sid, None)

        return unfollow

    async def lost(self) -> None:
        """Return when the connection is no longer good."""
        while self.is_connected:  # noqa: ASYNC110  # the client tells nobody
            await asyncio.sleep(WATCH_INTERVAL)


def masked(text: str, settings: NatsSettings) -> str:
    """The text without the secrets of the settings, for messages and logs."""
    text = redact_secrets(text, (settings.password, settings.token))
    return USERINFO.sub("***@", text)


def tls_context(settings: NatsSettings) -> ssl.SSLContext | None:
    """The TLS context of the settings; raises `NatsUnavailableError` naming the file at fault."""
    tls = settings.tls
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


async def connect(settings: NatsSettings) -> Connection:
    """A connection to the first server that takes us; it does not reconnect by itself.

    A client that reconnects by itself keeps subscriptions and requests of which nobody knows
    whether the server still does. A new connection starts from what is known.

    Raises `NatsUnavailableError` that says of every server why not.
    """
    reasons = []
    for server in settings.servers:
        try:
            return await _connect_to(server, settings)
        except NatsUnavailableError as error:
            reasons.append(str(error))
    raise NatsUnavailableError("; ".join(dict.fromkeys(reasons)))


async def _connect_to(server: str, settings: NatsSettings) -> Connection:
    connection, errors = Connection(), list[BaseException]()

    async def heard(error: Exception) -> None:
        errors.append(error)
        if connection.is_connected:
            log.warning("NATS complains", reason=masked(sentence(error), settings))
        del errors[:-5]

    context = tls_context(settings)
    for name, path in (("credentials", settings.credentials), ("nkey", settings.nkey)):
        if path is not None and not path.is_file():
            raise NatsUnavailableError(f"there is no file {path} ({name}); put it there")
    try:
        async with asyncio.timeout(settings.connect_timeout * 3):
            await connection.connect(
                servers=[server],
                name=settings.name,
                error_cb=heard,
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=settings.connect_timeout,  # type: ignore[arg-type]
                ping_interval=settings.ping_interval,
                max_outstanding_pings=settings.max_outstanding_pings,
                user=settings.user or None,
                password=settings.password.reveal() if settings.password else None,
                token=settings.token.reveal() if settings.token else None,
                user_credentials=str(settings.credentials) if settings.credentials else None,
                nkeys_seed=str(settings.nkey) if settings.nkey else None,
                tls=context,
                tls_hostname=(settings.tls.hostname or None) if settings.tls else None,
                inbox_prefix=settings.inbox_prefix,
            )
    except asyncio.CancelledError:
        await close(connection)
        raise
    except Exception as error:
        await close(connection)
        cause = errors[-1] if errors else error
        text = masked(sentence(cause), settings)
        asked = connection._server_info.get("auth_required")
        if asked and isinstance(cause, ConnectionError):
            # The reset that follows a refused login sometimes outruns the refusal.
            text += ", after it asked for a login; authentication has probably failed"
        hint = remedy(text)
        raise NatsUnavailableError(
            f"NATS at {masked(server, settings)} cannot be reached: {text}. {hint}"
        ) from None
    return connection


def remedy(text: str) -> str:
    """What to do about an error of connecting."""
    low = text.lower()
    if "authorization" in low or "authentication" in low:
        return "Check credentials, nkey, user and password, or token."
    if "certificate" in low or "ssl" in low or "tls" in low:
        return "Check tls.ca, tls.certificate, tls.key and tls.hostname."
    return "Check that it runs and that the servers setting is right."


def sentence(error: BaseException) -> str:
    """An error in one line, with words where it has none."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(dict.fromkeys(sentence(it) for it in error.exceptions))
    text = " ".join(str(error).split()).removeprefix("nats: ")
    if isinstance(error, TimeoutError) and text in ("", "timeout"):
        return "no answer in time"
    return text or type(error).__name__


async def close(connection: Connection) -> None:
    """Close a connection, whatever state it is in; a frozen server does not hold us."""
    connection.takers.clear()
    with suppress(TimeoutError, OSError, NatsError, AssertionError):
        async with asyncio.timeout(CLOSE_TIMEOUT):
            await connection.close()
    transport = connection._transport
    writer = getattr(transport, "_io_writer", None)
    if writer is not None:
        # Unsent bytes to a frozen server would keep the socket open for minutes.
        writer.transport.abort()


@asynccontextmanager
async def connected(settings: NatsSettings) -> AsyncIterator[Connection]:
    """A connection for the length of a block. Raises `NatsUnavailableError`."""
    connection = await connect(settings)
    try:
        yield connection
    finally:
        await close(connection)
