"""One check: a request, and what its answer says."""

import asyncio
import re
import ssl
import time
from collections.abc import Sequence
from typing import Any, Final

import httpx
import msgspec

from almenara.config import redact_secrets
from almenara.hookspecs import Finding
from almenara_http.settings import CheckSettings, HttpSettings, codes

REDIRECTS: Final = 10
AGENT: Final = "almenara-http"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a request."""

    wrong: str | None
    """Why it is not what was expected; None where it is."""
    latency: float | None = None
    """Seconds until the body was read; None where no answer came."""
    code: int | None = None
    expires: float | None = None
    """When the certificate ends, in seconds since the epoch."""
    size: int = 0
    """Bytes of the body that were read."""


def client(check: CheckSettings) -> httpx.AsyncClient:
    """A client for one check. Raises `OSError` where its CA file cannot be read."""
    verify: ssl.SSLContext | bool = check.verify
    if check.verify and check.ca is not None:
        try:
            verify = ssl.create_default_context(cafile=str(check.ca))
        except OSError as error:
            raise OSError(f"the file {check.ca} (ca) cannot be read: {error}") from None
    own = httpx.URL(check.url)

    async def keep_secrets(request: httpx.Request) -> None:
        # httpx itself takes `Authorization` away where a redirect leads elsewhere, and no more.
        if not _same_origin(own, request.url):
            for name in check.headers:
                request.headers.pop(name, None)

    return httpx.AsyncClient(
        verify=verify,
        timeout=check.timeout,
        follow_redirects=check.follow_redirects,
        max_redirects=REDIRECTS,
        event_hooks={"request": [keep_secrets]},
        trust_env=False,
        # A connection of its own each time: a check is to find that nobody new is let in.
        limits=httpx.Limits(max_keepalive_connections=0),
    )


def _same_origin(own: httpx.URL, other: httpx.URL) -> bool:
    """Whether two addresses are of one server; the https of a site is its http made safe."""
    if own.host != other.host:
        return False
    ports = {"http": 80, "https": 443}
    one, two = ((it.scheme, it.port or ports.get(it.scheme)) for it in (own, other))
    return one == two or (one, two) == (("http", 80), ("https", 443))


def _headers(check: CheckSettings) -> httpx.Headers:
    headers = httpx.Headers({"user-agent": AGENT, "accept-encoding": "identity"})
    headers.update({it.encode(): value.reveal().encode() for it, value in check.headers.items()})
    if check.bearer is not None:
        headers.update({b"authorization": f"Bearer {check.bearer.reveal()}".encode()})
    return headers


async def ask(check: CheckSettings) -> Answer:
    """Make the request of a check. What goes wrong is part of the answer."""
    began = time.monotonic()
    try:
        auth = (
            httpx.BasicAuth(check.user, check.password.reveal() if check.password else "")
            if check.user is not None
            else None
        )
        async with (
            asyncio.timeout(check.timeout),
            client(check) as session,
            session.stream(check.method, check.url, headers=_headers(check), auth=auth) as answer,
        ):
            expires = _expiry(answer)
            body = await _body(answer, check.body_limit)
            latency = time.monotonic() - began
    except TimeoutError:
        return Answer(wrong=f"no whole answer within {check.timeout:g} s")
    except Exception as error:
        # What a server, or where it redirects to, makes the client run into is not known
        # beforehand; whatever it is, it is this check's answer and no other's.
        return Answer(wrong=reason(error, check))
    return Answer(
        wrong=_judged(check, answer.status_code, body),
        latency=latency,
        code=answer.status_code,
        expires=expires,
        size=len(body),
    )


def _expiry(answer: httpx.Response) -> float | None:
    stream = answer.extensions.get("network_stream")
    connection = stream.get_extra_info("ssl_object") if stream is not None else None
    certificate: dict[str, Any] = (connection.getpeercert() or {}) if connection else {}
    ends = certificate.get("notAfter")
    return float(ssl.cert_time_to_seconds(ends)) if ends else None


async def _body(answer: httpx.Response, limit: int) -> bytes:
    """The beginning of the body; what is beyond the limit is not waited for."""
    parts: list[bytes] = []
    size = 0
    async for part in answer.aiter_raw():
        parts.append(part[: limit - size])
        size += len(parts[-1])
        if size >= limit:
            break
    return b"".join(parts)


def _judged(check: CheckSettings, code: int, body: bytes) -> str | None:
    if not any(code in codes(text) for text in check.expect):
        return f"status {code}, expected {' or '.join(check.expect)}"
    text = body.decode("utf-8", "replace")
    if check.contains is not None and check.contains not in text:
        return f"the body does not hold {check.contains[:80]!r}"
    if check.matches is not None and re.search(check.matches, text) is None:
        return f"the body does not match {check.matches[:80]!r}"
    return None


def reason(error: Exception, check: CheckSettings) -> str:
    """Why no answer came, in words and without secrets."""
    if isinstance(error, httpx.TimeoutException):
        return f"no answer within {check.timeout:g} s"
    if isinstance(error, httpx.TooManyRedirects):
        return f"more than {REDIRECTS} redirects"
    text = " ".join(str(error).split()) or type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in text:
        _, _, why = text.partition("certificate verify failed: ")
        return f"the certificate is not valid: {(why or text).partition(' (_ssl')[0]}"
    return redact_secrets(text, [check.password, check.bearer, *check.headers.values()])[:300]


async def diagnose(settings: HttpSettings) -> Sequence[Finding]:
    """What `almenara doctor` says of each check."""
    answers = await asyncio.gather(*(ask(check) for check in settings.checks))
    found = []
    for check, answer in zip(settings.checks, answers, strict=True):
        if answer.wrong is None:
            said = f"{check.url} answers {answer.code} in {(answer.latency or 0) * 1000:.0f} ms"
            found.append(Finding(check=f"HTTP {check.name}", verdict="ok", message=said))
        else:
            found.append(
                Finding(
                    check=f"HTTP {check.name}",
                    verdict="failed",
                    message=f"{check.url}: {answer.wrong}",
                    remedy="Look at the server, or at what the check expects of it.",
                )
            )
    return found
