"""Receivers of notifications at the wire: an HTTP server and an SMTP server that record, refuse,
hang, limit and redirect."""

import asyncio
import contextlib
import http.server
import json
import ssl
import threading
from collections.abc import Callable, Mapping
from email.message import EmailMessage, Message
from email.parser import BytesParser
from email.policy import default as modern_policy
from functools import partial
from types import TracebackType
from typing import Any, Self

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session


class Request:
    """A request as it arrived."""

    def __init__(self, path: str, headers: Mapping[str, str], body: bytes) -> None:
        self.path, self.headers, self.body = path, headers, body
        self.is_accepted = True

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Answer = tuple[int, Mapping[str, str], bytes]
Answering = Callable[[Request], Answer]


def accept(request: Request) -> Answer:
    return 200, {"content-type": "application/json"}, b'{"ok": true}'


class HttpReceiver:
    """An HTTP server that records requests; `answers` are used up first, then `answer`. An answer
    with status 0 closes the connection, and one with -1 hangs until the receiver is closed."""

    def __init__(self, answer: Answering = accept, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self.answers: list[Answer] = []
        self.answer = answer
        self.closed = threading.Event()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers.get("content-length", 0))
                body = self.rfile.read(length)
                if len(body) < length:
                    # The client was killed while it sent the request.
                    return
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Request(self.path, headers, body)
                receiver.requests.append(request)
                has_answer = bool(receiver.answers)
                status, more, content = (
                    receiver.answers.pop(0) if has_answer else receiver.answer(request)
                )
                self.close_connection = True
                if status == -1:
                    receiver.closed.wait()
                if status <= 0:
                    return
                self.send_response(status)
                for name, value in more.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(content)

            def log_message(self, *_: object) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.scheme = "http" if tls is None else "https"
        self.thread = threading.Thread(target=lambda: self.server.serve_forever(0.02), daemon=True)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.closed.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class Slack:
    """Answers as the Web API of Slack does: it has a channel, and remembers its messages."""

    def __init__(self) -> None:
        self.messages: dict[str, dict[str, Any]] = {}
        self.replies: list[dict[str, Any]] = []
        self.error = ""

    def __call__(self, request: Request) -> Answer:
        answer = self._respond(request.path.rpartition("/")[2], request.json)
        return 200, {"content-type": "application/json"}, json.dumps(answer).encode()

    def _respond(self, method: str, body: dict[str, Any]) -> dict[str, Any]:
        if self.error:
            return {"ok": False, "error": self.error}
        if method == "chat.update":
            if body["ts"] not in self.messages:
                return {"ok": False, "error": "message_not_found"}
            self.messages[body["ts"]] = body
            return {"ok": True, "channel": body["channel"], "ts": body["ts"]}
        if "thread_ts" in body:
            self.replies.append(body)
            return {"ok": True, "channel": body["channel"], "ts": "9.9"}
        ts = f"{len(self.messages) + 1}.000"
        self.messages[ts] = body
        return {"ok": True, "channel": "C0DE", "ts": ts}


class Mailbox:
    """What the SMTP server has accepted."""

    def __init__(self) -> None:
        self.raw: list[bytes] = []
        self.recipients: list[list[str]] = []
        self.replies: list[str] = []
        """Replies to the next messages, in place of acceptance."""
        self.refusals: dict[str, str] = {}
        """Replies to recipients that are refused."""

    async def handle_RCPT(  # noqa: N802  # the name is that of aiosmtpd
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if refusal := self.refusals.get(address):
            return refusal
        envelope.rcpt_tos.append(address)
        return "250 accepted"

    async def handle_DATA(  # noqa: N802  # the name is that of aiosmtpd
        self, server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        if self.replies:
            return self.replies.pop(0)
        assert isinstance(envelope.content, bytes)
        self.raw.append(envelope.content)
        self.recipients.append(list(envelope.rcpt_tos))
        return "250 accepted"

    @property
    def messages(self) -> list[EmailMessage]:
        return [_parse(raw) for raw in self.raw]


def _parse(raw: bytes) -> EmailMessage:
    message: Message = BytesParser(policy=modern_policy).parsebytes(raw)
    assert isinstance(message, EmailMessage)
    return message


class SmtpReceiver:
    """A real SMTP server; with `starttls` or `tls`, a context of the server, and with `login` the
    user and password that it requires."""

    def __init__(
        self,
        *,
        starttls: ssl.SSLContext | None = None,
        tls: ssl.SSLContext | None = None,
        login: tuple[str, str] | None = None,
    ) -> None:
        self.mailbox = Mailbox()

        def authenticate(
            server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
        ) -> AuthResult:
            assert isinstance(data, LoginPassword)
            is_right = login is not None and (data.login.decode(), data.password.decode()) == login
            return AuthResult(success=is_right, handled=False)

        options: dict[str, Any] = {}
        if login is not None:
            options = {
                "authenticator": authenticate,
                "auth_required": True,
                "auth_require_tls": tls is None,
            }
        self._make = partial(
            SMTP,
            self.mailbox,
            hostname="127.0.0.1",
            tls_context=starttls,
            require_starttls=starttls is not None,
            **options,
        )
        self._tls = tls
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self.port = 0

    async def _serve(self) -> None:
        self._loop, self._closed = asyncio.get_running_loop(), asyncio.Event()
        server = await self._loop.create_server(
            lambda: self._make(loop=self._loop), "127.0.0.1", 0, ssl=self._tls
        )
        self.port = int(server.sockets[0].getsockname()[1])
        self._started.set()
        await self._closed.wait()
        server.close()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(30)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._closed.set)
        self._thread.join()
