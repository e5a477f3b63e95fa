"""What is tried on the way in: other paths to the same thing, other names, other sites' frames."""

import http.client
import itertools
import random
import re
import time
from collections import Counter
from urllib.parse import quote

import pytest

from support.secured_server import OURS, THEIRS, SecuredServer

SECRET_TEXTS = (OURS, THEIRS, "root:x:0", "{% extends", "{% block", "SQLite format 3", "[project]",
                "hookimpl", "jetstream {")  # fmt: skip
"""What is in events, in templates, in files beside them and in files of the machine."""


class Client:
    """Sends paths and headers as they are, which libraries would put right."""

    def __init__(self, secured: SecuredServer) -> None:
        self.port = secured.almenara.port
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)

    def ask(
        self, path: str, headers: tuple[tuple[str, str], ...] = (), method: str = "GET"
    ) -> tuple[int, http.client.HTTPMessage, str]:
        try:
            self.connection.putrequest(method, "/", skip_host=True, skip_accept_encoding=True)
            # The path as it is: putrequest refuses some of what is tried here.
            self.connection._buffer[0] = f"{method} {path} HTTP/1.1".encode("latin-1")  # type: ignore[attr-defined]
            for name, value in (("Host", f"127.0.0.1:{self.port}"), *headers):
                self.connection.putheader(name, value)
            self.connection.endheaders()
            answer = self.connection.getresponse()
            text = answer.read().decode("utf-8", "replace")
        except (http.client.HTTPException, ConnectionError):
            self.connection.close()
            return 0, http.client.HTTPMessage(), ""
        if answer.will_close:
            self.connection.close()
        return answer.status, answer.headers, text


PROTECTED = ("/", "/events", "/events/5", "/sources", "/account", "/metrics", "/timeline",
             "/dashboards/overview", "/panels/events", "/api/events", "/api/events/5",
             "/api/events.ndjson", "/api/events.csv", "/api/resources", "/api/sources",
             "/api/plugins", "/api/health", "/api/session", "/api/openapi.json")  # fmt: skip
OPEN = ("/healthz", "/readyz", "/static", "/sign-in", "/sign-in/start")


def other_ways(seed: int, count: int) -> set[str]:
    """Other ways to write the paths of what is protected, some by way of what is open."""
    chance = random.Random(seed)
    ways: set[str] = set()
    slashes = ("/", "//", "/./", "/%2f", "/%2F", "\\", "/%5c", "/;/", "/..;/", "/%2e/", "/x/../",
               "/x/%2e%2e/", "/%252e%252e/", "/.%00/", "/%20/")  # fmt: skip
    endings = ("", "/", "//", "/.", ";", ";x=1", "%00", "%20", ".json", ".html", "/..", "?", "??",
               "#", "%23", "%3f", "/%2e", "~", ".css", "/x.css", "%0a", "%09", "*")  # fmt: skip
    while len(ways) < count:
        path = chance.choice(PROTECTED)
        parts = [each for each in path.split("/") if each]
        written = [
            "".join(
                f"%{ord(each):02x}" if chance.random() < 0.15
                else each.upper() if chance.random() < 0.05 else each
                for each in part
            )
            for part in parts
        ]  # fmt: skip
        way = "".join(chance.choice(slashes) + each for each in written) or chance.choice(slashes)
        if chance.random() < 0.4:
            up = chance.choice(("/..", "/%2e%2e", "/.%2e", "/..;", "/%252e%252e", "\\.."))
            way = chance.choice(OPEN) + up * chance.randint(1, 2) + way
        if chance.random() < 0.1:
            way = f"http://{chance.choice(('127.0.0.1', 'evil.example'))}{way}"
        ways.add((way if way.startswith(("/", "http")) else f"/{way}") + chance.choice(endings))
    return ways


def test_paths_written_otherwise_need_sign_in_too(secured: SecuredServer) -> None:
    seed, client = 5, Client(secured)
    ways = sorted(other_ways(seed, 2_000))
    statuses: Counter[int] = Counter()
    for way in ways:
        status, headers, text = client.ask(way)
        statuses[status] += 1
        assert not any(each in text for each in SECRET_TEXTS), way
        if status == 200:
            # Only what is open by itself answers.
            assert any(each in way for each in OPEN), way
            assert "/sign-in" in way or "healthz" in way or "readyz" in way, way
        if status == 303:
            assert headers["location"].startswith("/sign-in"), (way, headers["location"])
    assert not [each for each in statuses if each >= 500]
    print(f"seed {seed}: {len(ways)} ways to write a path, 0 past the sign-in; {dict(statuses)}")


def climbing() -> list[str]:
    ups = ("..", "%2e%2e", "..%2f", "%2e%2e%2f", "..%5c", "..\\", "....//", "..%252f",
           "%c0%ae%c0%ae/", "..;", "%u002e%u002e", "..%00", ".%2e", "..%c0%af")  # fmt: skip
    places = ("etc/passwd", "pyproject.toml", "templates/layout.html", "web/templates/layout.html",
              "almenara.db", "access.db", "var/access.db", "almenara_kubernetes/templates/pod.html",
              "kubernetes/pod.html", "__init__.py")  # fmt: skip
    roots = ("/static/", "/static/vendor/", "/static/kubernetes/", "/static/ray/", "/panels/",
             "/panels/kubernetes.", "/dashboards/", "/dashboards/ray.", "/events/")  # fmt: skip
    paths = [
        f"{root}{'/'.join([up] * depth)}/{place}"
        for root, up, place in itertools.product(roots, ups, places)
        for depth in (1 + (len(root) + len(place)) % 3 * 3,)
    ]
    others = ("/etc/passwd", "//etc/passwd", "%2fetc%2fpasswd", "file:///etc/passwd", "C:%5cwin",
              "layout.html", "almenara.css%00.html", "vendor/../layout.html")  # fmt: skip
    paths += [f"/static/{each}" for each in others]
    return paths


def test_paths_cannot_leave_the_static_folder(secured: SecuredServer) -> None:
    client = Client(secured)
    signed_in = (("Authorization", f"Bearer {secured.tokens['admin']}"),)
    statuses: Counter[int] = Counter()
    paths = climbing()
    for path in paths:
        status, _, text = client.ask(path, signed_in)
        statuses[status] += 1
        assert status in (0, 303, 400, 404, 414), path
        assert not any(each in text for each in SECRET_TEXTS[2:]), path
    print(f"{len(paths)} paths that climb, 0 files; {dict(statuses)}")


SPOOFED = (
    "X-Forwarded-User", "X-Forwarded-Email", "X-Forwarded-Groups", "X-Forwarded-Preferred-Username",
    "X-Auth-Request-User", "X-Auth-Request-Email", "X-Auth-Request-Groups", "X-Remote-User",
    "Remote-User", "Remote-Groups", "X-Remote-Group", "X-Webauth-User", "X-User", "X-Email",
    "X-Authenticated-User", "X-Authenticated-Groups", "Impersonate-User", "Impersonate-Group",
    "X-Almenara-Proxy-Secret", "X-Token-Subject", "X-Ssl-Client-Cert", "X-Client-Cert",
    "X-Forwarded-Client-Cert", "Ssl-Client-Verify", "X-Real-Ip", "X-Forwarded-For", "Forwarded",
    "X-Client-Ip", "True-Client-Ip", "Cf-Connecting-Ip", "X-Cluster-Client-Ip", "X-Original-Url",
    "X-Rewrite-Url", "X-Forwarded-Prefix", "X-Forwarded-Host", "X-Host", "X-Original-Host",
    "X-Http-Method-Override", "X-Http-Method", "X-Method-Override", "X-Custom-Ip-Authorization",
    "X-Csrf-Token", "X-Requested-With", "Proxy-Authorization", "Authorization", "Cookie",
)  # fmt: skip
VALUES = ("admin", "127.0.0.1", "for=127.0.0.1;host=127.0.0.1;proto=https", "/healthz", "GET",
          "Basic YWRtaW46YWRtaW4=", "Bearer", "Bearer null", "Bearer undefined", "Bearer nothing",
          "almenara=admin", "__Host-almenara=x; almenara=x")  # fmt: skip


def test_identity_headers_are_ignored_without_proxy_mode(
    secured: SecuredServer,
) -> None:
    client = Client(secured)
    statuses: Counter[int] = Counter()
    for name, value in itertools.product(SPOOFED, VALUES):
        for path in ("/api/session", "/api/events"):
            # Twice, as some proxies and servers read the first and some the last.
            status, _, text = client.ask(path, ((name, value), (name.lower(), "root")))
            statuses[status] += 1
            assert status in (400, 401), (name, value, status)
            assert OURS not in text
    print(f"{statuses.total()} requests with a spoofed header, 0 believed; {dict(statuses)}")


def test_responses_all_have_a_strict_policy(secured: SecuredServer) -> None:
    client, nonces = Client(secured), Counter[str]()
    signed_in = (("Authorization", f"Bearer {secured.tokens['admin']}"),)
    own = ("Host", "127.0.0.1")
    tried = [(each, signed_in, "GET") for each in (*PROTECTED, *OPEN, "/nowhere", "/api/nothing")]
    tried += [(each, (), "GET") for each in (*PROTECTED, *OPEN)]
    tried += [
        ("/events", (("Host", "evil.example"), own), "GET"), ("/events", signed_in, "POST"),
        ("/events", (("Origin", "https://evil.example"),), "GET"), ("/events", (), "PUT"),
        (f"/{quote('x' * 9000)}", (), "GET"), ("/events", (("X-Long", "x" * 40_000),), "GET"),
        ("/sign-in", (("Content-Length", "99999999"),), "POST"), ("/static/../x", (), "GET"),
        ("/events?severity=x", signed_in, "GET"), ("/api/events?limit=x", signed_in, "GET"),
    ]  # fmt: skip
    statuses: Counter[int] = Counter()
    for path, headers, method in tried:
        status, answer, _ = client.ask(path, headers, method)
        statuses[status] += 1
        policies = answer.get_all("content-security-policy") or []
        assert len(policies) == 1, (path, status)
        assert "frame-ancestors 'none'" in policies[0], path
        assert "default-src 'none'" in policies[0], path
        assert "unsafe" not in policies[0], path
        assert answer["x-content-type-options"] == "nosniff", path
        assert answer["referrer-policy"] == "same-origin", path
        assert answer["cross-origin-resource-policy"] == "same-origin", path
        assert answer["server"] is None, path
        nonces.update(re.findall(r"'nonce-([^']+)'", policies[0]))
    assert len(nonces) > 40
    assert set(nonces.values()) == {1}, "a nonce is used once"
    print(f"{len(tried)} answers, 0 without a strict policy; {dict(statuses)}")


@pytest.mark.parametrize("way", ["query", "path"])
def test_session_cannot_be_set_by_url(secured: SecuredServer, way: str) -> None:
    """A session is known by its cookie alone, which only signing in gives."""
    client, _ = secured.sign_in()
    name = secured.almenara.session_cookie
    secret = client.cookies[name]
    ask = Client(secured).ask
    path = f"/api/session?{name}={secret}&__Host-almenara={secret}&session={secret}"
    if way == "path":
        path = f"/api/session;{name}={secret}"
    assert ask(path)[0] in (401, 404)
    assert ask("/api/session", (("Cookie", f"{name}={secret}"),))[0] == 200


def test_filters_with_costly_patterns_stay_fast(secured: SecuredServer) -> None:
    evil = ("*" * 40 + "!", "*a" * 40 + "!", "*.*" * 20 + "!", "(a+)+" * 9, "a" * 3_000 + "*",
            "-1e999", "%s" * 99, "\x00*", "NEAR(" * 99, '"' * 99 + "*", "a* " * 99)  # fmt: skip
    names = ("type", "origin", "source", "subject", "text", "correlation", "name", "namespace",
             "kind", "since", "status", "severity")  # fmt: skip
    paths = ("/events", "/api/events", "/api/resources", "/panels/events", "/panels/sources",
             "/timeline", "/dashboards/overview")  # fmt: skip
    requests, slowest = 0, 0.0
    for path in paths:
        for name in names:
            for value in evil:
                started = time.monotonic()
                answer = secured.get(path, "viewer", params={name: value})
                slowest = max(slowest, time.monotonic() - started)
                assert answer.status_code < 500, (path, name, value)
                requests += 1
    print(f"{requests} filters that are hard to match: the slowest answer after {slowest:.2f} s")
