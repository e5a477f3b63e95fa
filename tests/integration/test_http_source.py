"""The HTTP plugin against real servers, real TLS among them."""

import asyncio
import contextlib
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from almenara.config import ConfigError, Secret, decode_settings
from almenara.signals import Event, Severity
from almenara.testing.source_run import MemoryContext, SourceRun
from almenara_http.client import ask, diagnose
from almenara_http.settings import CheckSettings, HttpSettings
from almenara_http.source import HttpSource, Known, judge

pytestmark = pytest.mark.anyio

Handler = Callable[[str, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A server that reads a request's head and leaves the answer to the handler."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            await handler(head.decode(), writer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"http{'s' if tls else ''}://127.0.0.1:{port}/"
    finally:
        server.close()


def answering(status: str = "200 OK", body: str = "fine", headers: str = "") -> Handler:
    async def answer(head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(
            f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{headers}\r\n{body}".encode()
        )
        await writer.drain()

    return answer


async def silent(head: str, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


async def endless(head: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


async def garbage(head: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x00\xff not HTTP at all\r\n\r\n")
    await writer.drain()


def check(url: str, **settings: object) -> CheckSettings:
    return CheckSettings(name="it", url=url, **{"timeout": 1.0, **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("handler", "settings", "wrong"),
    [
        (answering(), {}, None),
        (answering(), {"contains": "fin"}, None),
        (answering(), {"contains": "coarse"}, "the body does not hold 'coarse'"),
        (answering(), {"matches": r"^f\w+$"}, None),
        (answering(), {"matches": "^x"}, "the body does not match '^x'"),
        (answering("503 Busy"), {}, "status 503, expected 200-399"),
        (answering("404 None"), {"expect": ["200", "404"]}, None),
        (silent, {}, "answer within 1 s"),
        (endless, {"body_limit": 100_000}, None),
        (garbage, {}, "illegal"),
        (answering("302 There", headers="location: /\r\n"), {"follow_redirects": True},
         "more than 10 redirects"),
        (answering("302 There", headers="location: /\r\n"), {}, None),
    ],
)  # fmt: skip
async def test_an_answer_is_judged_by_its_code_its_body_and_its_time(
    handler: Handler, settings: dict[str, object], wrong: str | None
) -> None:
    async with asyncio.timeout(10), serving(handler) as url:
        answer = await ask(check(url, **settings))
    if wrong is None:
        assert answer.wrong is None
        assert answer.latency is not None
    else:
        assert wrong in (answer.wrong or "")
    assert answer.size <= 1_048_576


async def test_nobody_listening_is_told_in_words() -> None:
    answer = await ask(check("http://127.0.0.1:1/"))
    assert "connection" in (answer.wrong or "").lower()


def certificate(folder: Path, days: int) -> ssl.SSLContext:
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-keyout", str(key), "-out", str(cert), "-days", str(days),
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context


async def test_a_certificate_is_checked_and_its_end_is_warned_of_once(tmp_path: Path) -> None:
    tls = certificate(tmp_path, days=5)
    async with serving(answering(), tls) as url:
        stranger = await ask(check(url))
        assert "the certificate is not valid: self-signed" in (stranger.wrong or "")
        trusting = check(url, ca=tmp_path / "cert.pem")
        known, answer = Known(), await ask(trusting)
        assert answer.wrong is None
        told = [it for it in judge(trusting, known, answer) if isinstance(it, Event)]
        assert [it.type for it in told] == ["http.check.tls_expiring"]
        assert "ends in 5.0 days" in told[0].data["reason"] or "4.9" in told[0].data["reason"]
        again = [it for it in judge(trusting, known, answer) if isinstance(it, Event)]
        assert again == []


async def test_a_check_is_down_after_so_many_failures_and_the_change_has_one_identity() -> None:
    it = check("http://127.0.0.1:1/", attempts=2)
    good = msgspec_answer(None)
    bad = msgspec_answer("refused")
    known = Known()
    assert events(it, known, good) == []
    assert events(it, known, bad) == []
    before = Known(status=known.status, since=known.since, failures=known.failures)
    (down,) = events(it, known, bad)
    assert (down.type, down.severity, down.subject) == ("http.check.down", Severity.ERROR, "it")
    (told_again,) = events(it, before, bad)
    assert told_again.id == down.id
    assert events(it, known, bad) == []
    (up,) = events(it, known, good)
    assert up.type == "http.check.up"


def msgspec_answer(wrong: str | None) -> "object":
    from almenara_http.client import Answer

    return Answer(wrong=wrong, latency=None if wrong else 0.01, code=None if wrong else 200)


def events(it: CheckSettings, known: Known, answer: object) -> list[Event]:
    return [one for one in judge(it, known, answer) if isinstance(one, Event)]  # type: ignore[arg-type]


async def test_secrets_are_sent_and_shown_nowhere() -> None:
    heads: list[str] = []

    async def keep(head: str, writer: asyncio.StreamWriter) -> None:
        heads.append(head)
        await answering()(head, writer)

    async with serving(keep) as url:
        it = check(url, bearer=Secret.of("b3arer-word"), headers={"x-key": Secret.of("k3y-word")})
        answer = await ask(it)
        (finding,) = await diagnose(HttpSettings(checks=[it]))
    assert "authorization: bearer b3arer-word" in heads[0].lower()
    assert "x-key: k3y-word" in heads[0].lower()
    shown = f"{it} {answer} {finding} {judge(it, Known(), answer)}"
    assert "b3arer-word" not in shown
    assert "k3y-word" not in shown


async def test_what_is_wrong_with_one_check_is_its_answer(tmp_path: Path) -> None:
    word = tmp_path / "word"
    word.write_text("a-token")
    missing = Secret.parse({"file": str(word)})
    word.unlink()
    async with serving(answering()) as url:
        for settings, reason in (
            ({"bearer": missing}, f"the file {word} cannot be read"),
            ({"user": "u", "password": missing}, f"the file {word} cannot be read"),
            ({"headers": {"x-key": missing}}, f"the file {word} cannot be read"),
            ({"ca": tmp_path / "ca.crt"}, f"the file {tmp_path / 'ca.crt'} (ca) cannot be read"),
            ({"bearer": Secret.of("w0rd-of-a\nsecret")}, "***"),
        ):
            answer = await ask(check(url, **settings))
            assert reason in (answer.wrong or "")
            assert "w0rd-of-a" not in (answer.wrong or "")
        assert (await ask(check(url, bearer=Secret.of("Schlüssel-€")))).wrong is None
    async with serving(answering("302 There", headers="location: http://x:99999/\r\n")) as url:
        answer = await ask(check(url, follow_redirects=True))
        assert answer.wrong


async def test_a_redirect_to_another_server_takes_no_secret_along() -> None:
    heads: list[str] = []

    async def keep(head: str, writer: asyncio.StreamWriter) -> None:
        heads.append(head)
        await answering()(head, writer)

    async with serving(keep) as other:
        there = other.replace("127.0.0.1", "localhost")
        async with serving(answering("302 There", headers=f"location: {there}\r\n")) as url:
            it = check(
                url, follow_redirects=True, user="u", password=Secret.of("p4ss-word"),
                headers={"x-key": Secret.of("k3y-word")},
            )  # fmt: skip
            assert (await ask(it)).wrong is None
        assert "x-key" not in heads[0].lower()
        assert "authorization" not in heads[0].lower()
    asked: list[str] = []

    async def within(head: str, writer: asyncio.StreamWriter) -> None:
        asked.append(head)
        away = "302 There" if len(asked) == 1 else "200 OK"
        await answering(away, headers="location: /further\r\n")(head, writer)

    async with serving(within) as url:
        await ask(check(url, follow_redirects=True, headers={"x-key": Secret.of("k3y-word")}))
    assert asked[1].startswith("GET /further ")
    assert "x-key: k3y-word" in asked[1].lower()


async def test_a_check_that_left_the_settings_while_away_is_told_as_gone(tmp_path: Path) -> None:
    context = MemoryContext(tmp_path)
    one, two = (
        CheckSettings(name=name, url="http://127.0.0.1:1/", every=0.05) for name in ("one", "two")
    )
    for checks in ([one, two], [two]):
        source = HttpSource(HttpSettings(checks=checks), context)
        async with SourceRun(source, bus=context.bus) as run:
            await run.until(lambda: len(run.resources) == len(checks), 10)  # noqa: B023
    assert await context.known_resources("http") == [("http.check", "", "two")]


@pytest.mark.parametrize(
    ("tree", "told"),
    [
        ({"name": "a", "url": "ftp://x"}, "must start with http:// or https://"),
        ({"name": "a", "url": "http://x:99999"}, "a port from 1 to 65535"),
        ({"name": "a", "url": "http://[::1"}, "name a host"),
        ({"name": "a", "url": "http://x", "bearer": "secret-word\nmore"}, "a secret is one line"),
        (
            {"name": "a", "url": "http://u:secret-word@x/"},
            "must not contain a user name or password",
        ),
        ({"name": "a", "url": "http://x", "expect": ["9"]}, "codes from 100 to 599"),
        ({"name": "a", "url": "http://x", "matches": "("}, "is not a regular expression"),
        ({"name": "a", "url": "http://x", "evry": 3}, "did you mean every?"),
        (
            {"name": "a", "url": "http://x", "password": {"env": "NOT_SET_ANYWHERE"}},
            "plugins.http.checks[0].password: the environment variable NOT_SET_ANYWHERE is not set",
        ),
    ],
)
def test_wrong_settings_are_refused_with_what_to_do(tree: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        decode_settings(HttpSettings, {"checks": [tree]}, place="plugins.http")
    assert told in str(refused.value)
    assert "secret-word" not in str(refused.value)
