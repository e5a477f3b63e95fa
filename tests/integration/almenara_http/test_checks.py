"""The HTTP plugin against real servers, real TLS among them."""

import asyncio
import gzip
import re
import socket
import ssl
import threading
import time
import tracemalloc
from pathlib import Path

import pytest

from almenara.clock import clock_at
from almenara.config import ConfigError, Secret, decode_settings
from almenara.sdk.http import Resolver, trust_context
from almenara.signals import Event, Resource, Sample, Severity, now
from almenara.testing.source_run import MemoryContext, SourceRun
from almenara.units import DAY
from almenara_http.client import Outcome, perform_check
from almenara_http.doctor import diagnose
from almenara_http.settings import CheckSettings, HttpSettings
from almenara_http.source import CheckState, HttpSource, evaluate
from support.certificates import issue_self_signed
from support.http_site import Handler, answering, check, serving

pytestmark = pytest.mark.anyio


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


@pytest.mark.parametrize(
    ("handler", "settings", "failure"),
    [
        (answering(), {}, None),
        (answering(), {"contains": "fin"}, None),
        (answering(), {"contains": "coarse"}, "the body does not contain 'coarse'"),
        (answering(), {"matches": r"^f\w+$"}, None),
        (answering(), {"matches": "^x"}, "the body does not match '^x'"),
        (answering("503 Busy"), {}, "status 503, expected 200-399"),
        (answering("404 None"), {"expect": ["200", "404"]}, None),
        (silent, {}, "within 1 s"),
        (endless, {"body_limit": 100_000}, None),
        (garbage, {}, "illegal"),
        (answering("302 There", headers="location: /\r\n"), {"follow_redirects": True},
         "more than 10 redirects"),
        (answering("302 There", headers="location: /\r\n"), {}, None),
    ],
)  # fmt: skip
async def test_outcome_depends_on_code_body_and_time(
    handler: Handler, settings: dict[str, object], failure: str | None
) -> None:
    async with asyncio.timeout(10), serving(handler) as url:
        outcome = await perform_check(check(url, **settings))
    if failure is None:
        assert outcome.failure is None
        assert outcome.latency is not None
    else:
        assert failure in (outcome.failure or "")
    assert outcome.size <= 1_048_576


async def test_refused_connection_is_described() -> None:
    outcome = await perform_check(check("http://127.0.0.1:1/"))
    assert "connection" in (outcome.failure or "").lower()


async def test_certificate_is_verified_and_expiry_warned_once(tmp_path: Path) -> None:
    tls = issue_self_signed(tmp_path, days=40)
    async with serving(answering(), tls) as url:
        stranger = await perform_check(check(url))
        assert "the certificate is not valid: self-signed" in (stranger.failure or "")
        trusting = check(url, ca=tmp_path / "cert.pem")
        state, outcome = CheckState(), await perform_check(trusting)
        assert outcome.failure is None

    def warnings(days: int) -> list[Event]:
        """The events so many days from now."""
        with clock_at(now() + days * DAY):
            signals = evaluate(trusting, state, outcome)
        return [signal for signal in signals if isinstance(signal, Event)]

    # It is in the last quarter of its lifetime 10 days before its end.
    assert warnings(29) == []
    (warning,) = warnings(35)
    assert warning.type == "http.check.tls_expiring"
    assert re.search("expires in (5.0|4.9) days", warning.data["reason"])
    assert warnings(35) == []


async def test_check_is_down_after_attempts_with_one_event_id() -> None:
    shop = check("http://127.0.0.1:1/", failure_threshold=2)
    good = Outcome(failure=None, latency=0.01, code=200)
    bad = Outcome(failure="refused")
    state = CheckState()
    assert events(shop, state, good) == []
    assert events(shop, state, bad) == []
    before = CheckState(status=state.status, since=state.since, failures=state.failures)
    (down,) = events(shop, state, bad)
    assert (down.type, down.severity, down.subject) == ("http.check.down", Severity.ERROR, "shop")
    (repeated,) = events(shop, before, bad)
    assert repeated.id == down.id
    assert events(shop, state, bad) == []
    (up,) = events(shop, state, good)
    assert up.type == "http.check.up"


def events(shop: CheckSettings, state: CheckState, outcome: Outcome) -> list[Event]:
    return [signal for signal in evaluate(shop, state, outcome) if isinstance(signal, Event)]


async def test_secrets_are_sent_and_never_shown() -> None:
    heads: list[str] = []

    async def keep(head: str, writer: asyncio.StreamWriter) -> None:
        heads.append(head)
        await answering()(head, writer)

    async with serving(keep) as url:
        shop = check(
            f"{url}/?sig=qu3ry-word",
            bearer=Secret.of("b3arer-word"),
            headers={"x-key": Secret.of("k3y-word")},
        )
        outcome = await perform_check(shop)
        (finding,) = await diagnose(HttpSettings(checks=[shop]))
    assert "authorization: bearer b3arer-word" in heads[0].lower()
    assert "x-key: k3y-word" in heads[0].lower()
    assert "?sig=qu3ry-word" in heads[0]
    failed = Outcome(failure="no answer")
    signals = *evaluate(shop, CheckState(), outcome), *evaluate(shop, CheckState(), failed)
    shown = f"{outcome} {finding} {signals}"
    assert "qu3ry-word" not in shown
    shown += f"{shop}"
    assert "b3arer-word" not in shown
    assert "k3y-word" not in shown


async def test_faulty_settings_fail_only_their_check(tmp_path: Path) -> None:
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
            outcome = await perform_check(check(url, **settings))
            assert reason in (outcome.failure or "")
            assert "w0rd-of-a" not in (outcome.failure or "")
        assert (await perform_check(check(url, bearer=Secret.of("Schlüssel-€")))).failure is None
    async with serving(answering("302 There", headers="location: http://x:99999/\r\n")) as url:
        outcome = await perform_check(check(url, follow_redirects=True))
        assert outcome.failure


async def test_redirect_to_another_server_sends_no_secret() -> None:
    heads: list[str] = []

    async def keep(head: str, writer: asyncio.StreamWriter) -> None:
        heads.append(head)
        await answering()(head, writer)

    async with serving(keep) as other:
        there = other.replace("127.0.0.1", "localhost")
        async with serving(answering("302 There", headers=f"location: {there}\r\n")) as url:
            shop = check(
                url, follow_redirects=True, user="u", password=Secret.of("p4ss-word"),
                headers={"x-key": Secret.of("k3y-word")},
            )  # fmt: skip
            assert (await perform_check(shop)).failure is None
        assert "x-key" not in heads[0].lower()
        assert "authorization" not in heads[0].lower()
    requests: list[str] = []

    async def within(head: str, writer: asyncio.StreamWriter) -> None:
        requests.append(head)
        away = "302 There" if len(requests) == 1 else "200 OK"
        await answering(away, headers="location: /further\r\n")(head, writer)

    async with serving(within) as url:
        await perform_check(
            check(url, follow_redirects=True, headers={"x-key": Secret.of("k3y-word")})
        )
    assert requests[1].startswith("GET /further ")
    assert "x-key: k3y-word" in requests[1].lower()


async def test_removed_check_is_deleted_at_start(tmp_path: Path) -> None:
    context = MemoryContext(tmp_path)
    one, two = (
        CheckSettings(name=name, url="http://127.0.0.1:1/", every=0.05) for name in ("one", "two")
    )
    for checks in ([one, two], [two]):
        source = HttpSource(HttpSettings(checks=checks), context)
        async with SourceRun(source, bus=context.bus) as run:
            await run.until(lambda: len(list_checks(run)) == len(checks), 10)  # noqa: B023
    assert await context.known_resources("http") == [("http.check", "", "two")]


def list_checks(run: SourceRun) -> list[Resource]:
    return [each for each in run.resources.values() if each.kind == "http.check"]


async def test_host_is_down_while_all_of_its_checks_are(tmp_path: Path) -> None:
    status = {"/a": "503 Busy", "/b": "200 OK"}

    async def answer(head: str, writer: asyncio.StreamWriter) -> None:
        await answering(status[head.split()[1]])(head, writer)

    def has_status(run: SourceRun, expected: str) -> bool:
        hosts = [each for each in run.resources.values() if each.kind == "http.host"]
        return [(each.name, each.status) for each in hosts] == [("127.0.0.1", expected)]

    context = MemoryContext(tmp_path)
    async with serving(answer) as url:
        settings = HttpSettings(
            checks=[
                CheckSettings(name=name, url=f"{url}{name}", every=0.1, failure_threshold=1)
                for name in ("a", "b")
            ]
        )
        async with SourceRun(HttpSource(settings, context), bus=context.bus) as run:
            await run.until(lambda: has_status(run, "up"), 10)
            status["/b"] = "503 Busy"
            await run.until(lambda: has_status(run, "down"), 10)
            assert {each.state["host"] for each in list_checks(run)} == {"127.0.0.1"}
        # A restart does not report it as up before all of its checks were performed.
        before = len(context.bus.signals)
        async with SourceRun(HttpSource(settings, context), bus=context.bus) as run:

            def count_samples() -> int:
                return sum(isinstance(each, Sample) for each in context.bus.signals[before:])

            await run.until(lambda: count_samples() > 6, 10)
            status["/a"] = "200 OK"
            await run.until(lambda: has_status(run, "up"), 10)
        later = [each for each in context.bus.signals[before:] if isinstance(each, Resource)]
        assert [each.status for each in later if each.kind == "http.host"] == ["down", "up"]


@pytest.mark.parametrize(
    ("tree", "reason"),
    [
        ({"name": "a", "url": "ftp://x"}, "must start with http:// or https://"),
        ({"name": "a", "url": "http://x:99999"}, "between 1 and 65535"),
        ({"name": "a", "url": "http://[::1"}, "name a host"),
        ({"name": "a", "url": "http://x", "bearer": "secret-word\nmore"}, "a secret is one line"),
        (
            {"name": "a", "url": "http://u:secret-word@x/"},
            "must not contain a user name or password",
        ),
        ({"name": "a", "url": "http://x", "expect": ["9"]}, "codes from 100 to 599"),
        (
            {"name": "a", "url": "http://x", "matches": "("},
            "matches of check a: the regular expression",
        ),
        ({"name": "a", "url": "http://x", "evry": 3}, "did you mean every?"),
        ({"name": "a", "url": "http://x", "attempts": 3}, "named failure_threshold now"),
        (
            {"name": "a", "url": "http://x", "conditions": ["json a exists", "jsn b == 1"]},
            "plugins.http.checks[0]: conditions[1] of check a, 'jsn b == 1': it starts with json",
        ),
        ({"name": "a", "url": "http://x", "key": "/k.pem"}, "has a key, but no certificate"),
        ({"name": "a", "url": "http://x", "proxy": "socks5://p"}, "url of the proxy of check a"),
        (
            {"name": "a", "url": "http://x", "proxy": "http://u:secret-word@p"},
            "use proxy_user and proxy_password",
        ),
        ({"name": "a", "url": "http://x", "fast_below": 3}, "more than slow_after (2 s)"),
        (
            {
                "name": "a",
                "url": "http://x",
                "maintenance": [{"start": "02:00", "end": "03:00", "zone": "Europe/Madird"}],
            },
            "plugins.http.checks[0].maintenance[0]: 'Europe/Madird' is not a time zone; did you"
            " mean Europe/Madrid?",
        ),
        (
            {"name": "a", "url": "http://x", "password": {"env": "NOT_SET_ANYWHERE"}},
            "plugins.http.checks[0].password: the environment variable NOT_SET_ANYWHERE is not set",
        ),
    ],
)
def test_wrong_settings_are_refused_with_remedy(tree: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError) as refused:
        decode_settings(HttpSettings, {"checks": [tree]}, place="plugins.http")
    assert reason in str(refused.value)
    assert "secret-word" not in str(refused.value)


def compressed(body: bytes, encoding: str, content_type: str) -> Handler:
    async def answer(head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(
            f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\ncontent-encoding: {encoding}\r\n"
            f"content-type: {content_type}\r\n\r\n".encode()
        )
        writer.write(body)
        await writer.drain()

    return answer


async def test_body_is_matched_decoded() -> None:
    body = gzip.compress("Grüße".encode("latin-1"))
    handler = compressed(body, "gzip", "text/plain; charset=iso-8859-1")
    async with serving(handler) as url:
        assert (await perform_check(check(url, contains="Grüße"))).failure is None


async def test_compressed_body_is_decoded_up_to_the_limit() -> None:
    handler = compressed(gzip.compress(b"x" * 64 * 1024**2), "gzip", "text/plain")
    async with serving(handler) as url:
        tracemalloc.start()
        outcome = await perform_check(check(url, body_limit=100_000))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert (outcome.failure, outcome.size) == (None, 100_000)
    assert peak < 8 * 1024**2


async def test_broken_compression_fails_the_check() -> None:
    async with serving(compressed(b"this is not gzip", "gzip", "text/plain")) as url:
        outcome = await perform_check(check(url))
    assert "incorrect header check" in (outcome.failure or "")


async def test_tls_context_is_loaded_once_and_after_a_change(tmp_path: Path) -> None:
    issue_self_signed(tmp_path, days=5)
    ca = tmp_path / "cert.pem"
    context = trust_context(ca)
    assert trust_context(ca) is context
    assert trust_context() is trust_context()
    issue_self_signed(tmp_path, days=6)
    assert trust_context(ca) is not context


async def test_system_trust_store_follows_ssl_cert_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = issue_self_signed(tmp_path, days=5)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    monkeypatch.setattr("almenara.sdk.http._contexts", {})
    async with serving(answering(), tls) as url:
        assert (await perform_check(check(url))).failure is None


async def test_expiry_is_read_without_verification_and_over_redirects(tmp_path: Path) -> None:
    for name in ("soon", "later"):
        (tmp_path / name).mkdir()
    soon, later = (issue_self_signed(tmp_path / name, days) for name, days in
                   (("soon", 3), ("later", 300)))  # fmt: skip
    async with serving(answering(), later) as target:
        redirect = answering("302 Found", headers=f"location: {target}\r\n")
        async with serving(redirect, soon) as url:
            outcome = await perform_check(check(url, verify=False, follow_redirects=True))
    assert outcome.failure is None
    assert outcome.validity is not None
    assert 2.9 < (outcome.validity.expires - time.time()) / 86_400 < 3.1


async def test_unexpected_redirect_names_its_target_without_query() -> None:
    handler = answering("302 Found", headers="location: https://sso.example/login?token=abc\r\n")
    async with serving(handler) as url:
        outcome = await perform_check(check(url, expect=["200"]))
    assert "it redirects to https://sso.example/login (follow_redirects is off)" in (
        outcome.failure or ""
    )
    assert "abc" not in (outcome.failure or "")


async def test_missing_client_certificate_is_named(tmp_path: Path) -> None:
    tls = issue_self_signed(tmp_path, days=5)
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_verify_locations(tmp_path / "cert.pem")
    async with serving(answering(), tls) as url:
        outcome = await perform_check(check(url, ca=tmp_path / "cert.pem"))
    assert re.search("server.* (requires|may require) a client certificate", str(outcome.failure))


def test_slow_responses_change_the_status_after_attempts() -> None:
    shop = check("http://127.0.0.1:1/", slow_threshold=2, slow_after=1.0)
    state = CheckState()
    slow, fast = (Outcome(failure=None, latency=latency, code=200) for latency in (2.0, 0.1))
    assert events(shop, state, fast) == []
    for outcome in (slow, fast, slow, fast):
        assert events(shop, state, outcome) == []
    assert events(shop, state, slow) == []
    assert [event.type for event in events(shop, state, slow)] == ["http.check.slow"]
    assert events(shop, state, fast) == []
    assert [event.type for event in events(shop, state, fast)] == ["http.check.up"]


async def test_hanging_name_lookups_delay_no_other_check(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def hang(host: str, *rest: object) -> object:
        if host.startswith("hanging"):
            released.wait(20)
        return socket.getaddrinfo(host, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("almenara.sdk.http.getaddrinfo", hang)
    resolver = Resolver(limit=16)
    try:
        async with serving(answering()) as url, asyncio.TaskGroup() as group:
            hanging = [
                group.create_task(
                    perform_check(check(f"http://hanging-{number}.example/"), resolver)
                )
                for number in range(16)
            ]
            await asyncio.sleep(0.1)
            for _ in range(3):
                assert (await perform_check(check(url), resolver)).failure is None
            over = await perform_check(check("http://one-more.example/"), resolver)
            assert "check the name servers" in (over.failure or "")
        assert {task.result().failure for task in hanging} <= {
            "no complete response within 1 s",
            *(f"hanging-{number}.example could not be resolved in time" for number in range(16)),
        }
    finally:
        released.set()


async def test_checks_that_start_late_degrade_the_source(tmp_path: Path) -> None:
    async with serving(silent) as url:
        checks = [
            CheckSettings(name=f"check-{number}", url=url, every=0.2, timeout=0.3)
            for number in range(4)
        ]
        source = HttpSource(HttpSettings(checks=checks, concurrency=1), MemoryContext(tmp_path))
        run = SourceRun(source).start()
        await run.until(lambda: run.is_degraded, 10)
        # The tasks of the server are in this loop as well.
        await run.stop()
    assert "checks start late" in run.degraded_for[-1]


async def test_many_checks_need_no_task_each(tmp_path: Path) -> None:
    async with serving(answering()) as url:
        checks = [CheckSettings(name=f"c{number}", url=url, every=60) for number in range(1_200)]
        source = HttpSource(HttpSettings(checks=checks, concurrency=20), MemoryContext(tmp_path))
        before = len(asyncio.all_tasks())
        run = SourceRun(source).start()
        most = 0

        def is_complete() -> bool:
            nonlocal most
            most = max(most, len(asyncio.all_tasks()) - before)
            return len(list_checks(run)) == len(checks)

        await run.until(is_complete, 60)
        await run.stop()
    assert {resource.status for resource in run.resources.values()} == {"up"}
    assert not run.degraded_for
    # A task of the server for each connection, and some of the client for each request.
    assert most < 200
