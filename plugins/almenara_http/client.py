"""The request of a check, and whether its response is as expected."""

import asyncio
import ssl
import time
from base64 import b64encode
from collections.abc import Iterator
from typing import Any, Final

import httpx
import msgspec

from almenara.config import Secret, redact_secrets
from almenara.sdk import compile_expression, redact_urls
from almenara.sdk.http import (
    ClientCertificate,
    Resolver,
    create_client,
    describe_http_error,
    is_same_server,
    trust_context,
)
from almenara_http.certificates import Validity, first_to_expire
from almenara_http.conditions import ResponseContent, explain_failure, parse_condition
from almenara_http.decoding import BodyDecoder
from almenara_http.settings import CheckSettings, parse_codes

REDIRECTS: Final = 10
LONGEST: Final = 300
"""Characters of a failure."""
SHORTEST_SECRET: Final = 4
PUBLIC_HEADERS: Final = ("accept", "content-type", "host", "user-agent")
"""Headers whose values are no secrets, and may be part of a failure."""
USER_AGENT: Final = "almenara-http"
NO_CERTIFICATE: Final = "No required SSL certificate was sent"
"""How nginx answers, with status 400, where it requires a client certificate."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one request."""

    failure: str | None
    """Why the response is not as expected; None where it is."""
    latency: float | None = None
    """Seconds from the request until the body was read; None without a complete response."""
    code: int | None = None
    validity: Validity | None = None
    """That of the certificate that expires first, of the chains of all redirects; None without
    TLS."""
    size: int = 0
    """Bytes of the body that were read."""
    version: str | None = None
    """Version of HTTP of the response: `HTTP/1.1` or `HTTP/2`."""
    location: str | None = None
    """Where the redirects led, or where one leads that is not followed, without query."""
    redirects: int = 0
    """Redirects that were followed."""


class RefusedRedirect(Exception):  # noqa: N818
    """A redirect that would send the body of a check to another server."""


async def perform_check(check: CheckSettings, resolver: Resolver | None = None) -> Outcome:
    """Send the request of a check; every failure is part of the outcome."""
    validities: list[Validity] = []

    async def record_certificate(response: httpx.Response) -> None:
        # Called for each redirect as well, while its connection is still open.
        stream = response.extensions.get("network_stream")
        tls: ssl.SSLObject | None = stream.get_extra_info("ssl_object") if stream else None
        if tls is not None and (validity := first_to_expire(tls)) is not None:
            validities.append(validity)

    try:
        client = _create_client(check, resolver, record_certificate)
        async with client, asyncio.timeout(check.timeout):
            started = time.monotonic()
            request = client.stream(
                check.method,
                check.url,
                headers=_headers(check),
                auth=_credentials(check),
                content=None if check.body is None else check.body.reveal().encode(),
            )
            async with request as response:
                decoder = BodyDecoder(response.headers.get("content-encoding", ""))
                body = await _read_body(response, decoder, check.body_limit)
            latency = time.monotonic() - started
    except TimeoutError:
        return Outcome(failure=f"no complete response within {check.timeout:g} s")
    except Exception as error:
        # A server, or one that it redirects to, can raise anything in the client; whatever it is,
        # it is the outcome of this check and must not affect others.
        return Outcome(failure=_redact(_describe(error, check), check))
    failure = _judge(check, response, body, decoder.unknown)
    return Outcome(
        failure=None if failure is None else _redact(failure, check),
        latency=latency,
        code=response.status_code,
        validity=min(validities, default=None),
        size=len(body),
        version=response.http_version,
        location=_find_location(check, response),
        redirects=len(response.history),
    )


def _create_client(
    check: CheckSettings, resolver: Resolver | None, record_certificate: Any
) -> httpx.AsyncClient:
    """A client for one check. Raises `OSError` where one of its files cannot be read."""
    own = httpx.URL(check.url)

    async def keep_secrets(request: httpx.Request) -> None:
        if is_same_server(own, request.url):
            return
        if request.headers.get("content-length", "0") != "0":
            raise RefusedRedirect(
                f"a redirect to {_without_query(str(request.url))} would send the body to another"
                " server; set url to where it leads"
            )
        # httpx removes only `Authorization` when a redirect leads to another server, and replaces
        # `Host`.
        for name in check.headers:
            if name.lower() != "host":
                request.headers.pop(name, None)

    certificate = None
    if check.certificate is not None:
        certificate = ClientCertificate(check.certificate, check.key, check.key_password)
    return create_client(
        check.url,
        ca=check.ca,
        verify=check.verify,
        client=certificate,
        resolver=resolver,
        proxy=_proxy(check),
        timeout=check.timeout,
        follow_redirects=check.follow_redirects,
        max_redirects=REDIRECTS,
        http2=check.http2,
        event_hooks={"request": [keep_secrets], "response": [record_certificate]},
        # A new connection each time: a check must notice when new clients are not accepted.
        limits=httpx.Limits(max_keepalive_connections=0),
    )


def _proxy(check: CheckSettings) -> httpx.Proxy | str | None:
    if not check.proxy:
        return check.proxy
    auth = None
    if check.proxy_user is not None:
        password = check.proxy_password.reveal() if check.proxy_password else ""
        auth = (check.proxy_user, password)
    is_tls = check.proxy.startswith("https")
    return httpx.Proxy(check.proxy, auth=auth, ssl_context=trust_context() if is_tls else None)


def _headers(check: CheckSettings) -> httpx.Headers:
    headers = httpx.Headers({"user-agent": USER_AGENT, "accept-encoding": "identity"})
    headers.update(
        {name.encode(): value.reveal().encode() for name, value in check.headers.items()}
    )
    if check.bearer is not None:
        headers.update({b"authorization": f"Bearer {check.bearer.reveal()}".encode()})
    return headers


def _credentials(check: CheckSettings) -> httpx.BasicAuth | None:
    if check.user is None:
        return None
    return httpx.BasicAuth(check.user, check.password.reveal() if check.password else "")


async def _read_body(response: httpx.Response, decoder: BodyDecoder, limit: int) -> bytes:
    """The first `limit` bytes of the decoded body; the rest is not waited for."""
    parts: list[bytes] = []
    size = 0
    async for raw in response.aiter_raw():
        parts.append(decoder.decode(raw, limit - size))
        size += len(parts[-1])
        if size >= limit:
            break
    return b"".join(parts)


def _judge(check: CheckSettings, response: httpx.Response, body: bytes, unknown: str) -> str | None:
    """Why a response is not as expected; None where it is."""
    code = response.status_code
    if not any(code in parse_codes(text) for text in check.expect):
        failure = f"status {code}, expected {' or '.join(check.expect)}"
        if response.history:
            failure += f", {_count_redirects(response)} to {_without_query(str(response.url))}"
        if response.has_redirect_location:
            target = _without_query(response.headers["location"])
            failure += f"; it redirects to {target} (follow_redirects is off)"
        elif code == 400 and NO_CERTIFICATE.encode() in body:
            failure += "; the server requires a client certificate"
        return failure
    if check.contains is None and check.matches is None and not check.conditions:
        return None
    if unknown:
        return f"the body is encoded as {unknown[:40]}, although identity was requested"
    try:
        text = body.decode(response.charset_encoding or "utf-8", "replace")
    except LookupError:
        text = body.decode("utf-8", "replace")
    if check.contains is not None and check.contains not in text:
        return f"the body does not contain {check.contains[:80]!r}"
    if check.matches is not None and compile_expression(check.matches).search(text) is None:
        return f"the body does not match {check.matches[:80]!r}"
    cut_at = check.body_limit if len(body) >= check.body_limit else None
    content = ResponseContent(response.headers, response.http_version, text, cut_at)
    failures = (explain_failure(parse_condition(each), content) for each in check.conditions)
    return next(filter(None, failures), None)


def _find_location(check: CheckSettings, response: httpx.Response) -> str | None:
    if response.has_redirect_location:
        try:
            target = str(response.url.join(response.headers["location"]))
        except (httpx.InvalidURL, ValueError):
            target = response.headers["location"]
    elif response.history:
        target = str(response.url)
    else:
        return None
    return _redact(_without_query(target), check)


def _count_redirects(response: httpx.Response) -> str:
    count = len(response.history)
    return f"after {count} redirect{'s' if count > 1 else ''}"


def _without_query(url: str) -> str:
    """A URL without credentials, query and fragment, all of which may hold secrets."""
    return redact_urls(url.partition("?")[0].partition("#")[0])[:200]


def _redact(text: str, check: CheckSettings) -> str:
    secrets = [secret for secret in _secrets(check) if _is_long(secret)]
    return redact_secrets(text, secrets)[:LONGEST]


def _secrets(check: CheckSettings) -> Iterator[Secret]:
    """What a server may repeat in its response, and a library in its error."""
    named = (
        check.password, check.bearer, check.body, check.key_password, check.proxy_password,
        *(value for name, value in check.headers.items() if name.lower() not in PUBLIC_HEADERS),
    )  # fmt: skip
    yield from (secret for secret in named if secret is not None)
    if (password := check.password) is not None:
        yield Secret(lambda: b64encode(f"{check.user or ''}:{password.reveal()}".encode()).decode())


def _is_long(secret: Secret) -> bool:
    """Whether a secret is long enough to be one; a single digit is part of every text."""
    try:
        return len(secret.reveal()) >= SHORTEST_SECRET
    except OSError:
        return False


def _describe(error: Exception, check: CheckSettings) -> str:
    if isinstance(error, httpx.TooManyRedirects):
        target = _without_query(str(error.request.url))
        return f"more than {REDIRECTS} redirects, the last from {target}"
    text = describe_http_error(error, check.timeout, has_certificate=check.certificate is not None)
    if check.proxy and isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return f"through the proxy {redact_urls(check.proxy)}: {text}"
    return text
