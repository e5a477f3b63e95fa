"""A provider and an API server that answer too much, too slowly or nonsense, at the wire."""

import asyncio
import contextlib
import gzip
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey

from almenara.config import KubernetesAccessSettings, OidcSettings, Secret
from almenara.errors import Unavailable
from almenara.security import kubernetes as clusters, oidc
from almenara.security.errors import AuthError
from almenara.security.identity import Identity, Role, User, anonymous_identity
from almenara.security.kubernetes import LIST_PODS, ReviewClient
from almenara.security.oidc import OidcProvider

pytestmark = pytest.mark.anyio

MIB = 1024**2
KEY = ECKey.generate_key("P-256", {"kid": "one"})
ENDLESS, DRIP = b"endless", b"drip"
PATIENCE = 2.0
CALLBACK = "https://almenara.test/sign-in/callback"
Answer = bytes | dict[str, Any]


def whole(body: bytes, **headers: str) -> bytes:
    named = {"content-type": "application/json", "content-length": str(len(body)), **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"HTTP/1.1 200 OK\r\n{head}\r\n".encode() + body


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
TOO_MUCH: dict[str, bytes] = {
    "a body without an end": HEAD + b"\r\n" + ENDLESS,
    "chunks without an end": HEAD + b"transfer-encoding: chunked\r\n\r\n" + ENDLESS,
    "a length that is never reached": HEAD + b"content-length: 99999999999\r\n\r\n" + ENDLESS,
    "headers without an end": b"HTTP/1.1 200 OK\r\nx: " + ENDLESS,
    "what unfolds": whole(gzip.compress(b" " * 64 * MIB), **{"content-encoding": "gzip"}),
    "a byte now and then": HEAD + b"content-length: 100\r\n\r\n" + DRIP,
    "a header now and then": b"HTTP/1.1 200 OK\r\nx: " + DRIP,
    "interim answers without an end": DRIP + b"HTTP/1.1 103 Early Hints\r\n\r\n",
    "nothing": DRIP,
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
}
NONSENSE: dict[str, bytes] = {
    name: whole(body)
    for name, body in {
        "nothing": b"", "null": b"null", "a list": b"[]", "a list of lists": b"[[[]]]",
        "a number": b"1e999", "a text": b'"x"', "no UTF-8": b'{"\xff": "\xfe"}', "HTML": b"<html>",
        "a half": b'{"issuer":', "deep lists": b"[" * 200_000 + b"]" * 200_000,
        "deep objects": b'{"keys":' * 100_000 + b"1" + b"}" * 100_000,
        "an error": b'{"error": {"a": []}}', "other types":
        b'{"keys": 1, "status": [], "issuer": {}, "sub": [], "id_token": 7, "access_token": {}}',
        "wrong keys": b'{"keys": [{"kty": "RSA", "n": "!", "e": 1}, {"kty": []}, 7, null]}',
        "an unsigned token": b'{"id_token": "a.b.c", "access_token": "x", "token_type": "bearer"}',
        "long numbers": b'{"keys": ' + b"9" * 100_000 + b"}",
    }.items()
}  # fmt: skip
AWAY = {"elsewhere": b"HTTP/1.1 302 Found\r\nlocation: /other\r\ncontent-length: 0\r\n\r\n"}


class Hostile:
    """Answers what `answers` has for a path, and counts the bytes that anybody took of it."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer | Callable[[], Answer]] = {}
        self.paths: list[str] = []
        self.bodies: list[bytes] = []
        self.taken = 0
        self.url = ""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Hostile"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            self.bodies.append(await reader.readexactly(int(length[1]) if length else 0))
            path = head.split(b" ")[1].decode()
            if path not in self.answers:
                # Of another program that still uses the port's number.
                writer.close()
                return
            self.paths.append(path)
            response = self.answers[path]
            answer = response() if callable(response) else response
            if isinstance(answer, dict):
                answer = whole(json.dumps(answer).encode())
            begin, mark, more = answer.partition(ENDLESS if ENDLESS in answer else DRIP)
            await self._send(writer, begin)
            chunked = b"chunked" in begin
            while mark == ENDLESS:
                part = b" " * MIB
                await self._send(writer, b"%x\r\n%s\r\n" % (len(part), part) if chunked else part)
            while mark == DRIP:
                await asyncio.sleep(PATIENCE / 10)
                await self._send(writer, more or (b" " if begin else b""))
                if reader.at_eof():
                    break
        writer.close()

    async def _send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(data)
        await writer.drain()
        self.taken += len(data)


class Known:
    """Makes a session of everybody whom the provider knows."""

    sessions: Any = ()

    def __init__(self) -> None:
        self.persons: list[User] = []

    async def resolve(self, person: User | None) -> Identity | None:
        if person is not None:
            self.persons.append(person)
        return None if person is None else anonymous_identity(Role.VIEWER)

    async def start_session(
        self,
        request_info: Any,
        identity: Identity,
        *,
        access_token_mark: str = "",
        refresher: Any = None,
    ) -> str:
        return "a session"

    async def end_session(self, session: Any) -> None:
        pass


async def sign_in(hostile: Hostile, known: Known | None = None, **settings: Any) -> str:
    """Sign in at the provider and return the secret of the session. Raises `AuthError`."""
    nonce = ""

    def tokens() -> dict[str, Any]:
        moment = int(time.time())
        claims = {"iss": hostile.url, "aud": "almenara", "sub": "ada", "nonce": nonce,
                  "iat": moment, "exp": moment + 60}  # fmt: skip
        token = jwt.encode({"alg": "ES256", "kid": "one"}, claims, KEY, algorithms=["ES256"])
        return {"id_token": token, "access_token": "x", "token_type": "bearer"}

    hostile.answers = {
        "/.well-known/openid-configuration": {
            "issuer": hostile.url, "authorization_endpoint": f"{hostile.url}/authorize",
            "token_endpoint": f"{hostile.url}/token", "jwks_uri": f"{hostile.url}/keys",
            "userinfo_endpoint": f"{hostile.url}/who",
        },
        "/keys": {"keys": [KEY.as_dict(private=False)]},
        "/token": tokens,
        "/who": {"sub": "ada", "groups": ["sre"]},
        **hostile.answers,
    }  # fmt: skip
    chosen = OidcSettings(issuer=hostile.url, client_id="almenara", **settings)
    provider = OidcProvider(chosen, known or Known())
    try:
        login = await provider.start_login(CALLBACK, "/")
        parameters = parse_qs(urlsplit(login.url).query)
        nonce = parameters["nonce"][0]
        callback = {"state": parameters["state"][0], "code": "x"}
        secret, _ = await provider.finish_login(None, callback, login.cookie)  # type: ignore[arg-type]
        return secret
    finally:
        await provider.close()


async def ask_cluster(hostile: Hostile, path: str) -> User | bool | None:
    """What a cluster says. Raises `Unavailable`."""
    cluster = ReviewClient(KubernetesAccessSettings(server=hostile.url, token=Secret.of("ours")))
    try:
        if "tokenreviews" in path:
            return await cluster.review_token("theirs")
        return await cluster.review_access(User(name="ada", subject="x"), LIST_PODS, "default")
    finally:
        await cluster.close()


OF_PROVIDER = ("/.well-known/openid-configuration", "/keys", "/token", "/who")
OF_CLUSTER = (
    "/apis/authentication.k8s.io/v1/tokenreviews",
    "/apis/authorization.k8s.io/v1/subjectaccessreviews",
)


async def test_hostile_responses_are_bounded_and_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Hostile().running() as honest:
        assert await sign_in(honest) == "a session"
        assert honest.paths == list(dict.fromkeys(honest.paths)), "each is requested once"
        assert set(OF_PROVIDER) == set(honest.paths)
    answers = TOO_MUCH | NONSENSE | AWAY
    slow = {name: each for name, each in answers.items() if DRIP in each}
    most, reached = 0, 0

    async def attack(turns: asyncio.Semaphore, path: str, name: str) -> None:
        nonlocal most, reached
        async with turns, Hostile().running() as hostile:
            hostile.answers = {path: answers[name]}
            with pytest.raises((AuthError, Unavailable)) as refused:
                if path in OF_PROVIDER:
                    await sign_in(hostile)
                else:
                    await ask_cluster(hostile, path)
            assert getattr(refused.value, "status", 503) == 503, (path, name)
            # Of an endless one some is under way in the buffers of both sides.
            assert hostile.taken < 16 * MIB, (path, name)
            most = max(most, hostile.taken)
            reached += path in hostile.paths

    started = time.monotonic()
    # Those that never end in time wait side by side for the end of little patience; the others are
    # tried one after another, because reading them keeps this loop busy.
    for several, patience, at_once in (
        (answers.keys() - slow.keys(), 60.0, 1),
        (slow.keys(), PATIENCE, 36),
    ):
        reached, turns = 0, asyncio.Semaphore(at_once)
        monkeypatch.setattr(oidc, "RESPONSE_TIMEOUT", patience)
        monkeypatch.setattr(clusters, "RESPONSE_TIMEOUT", patience)
        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            for path in (*OF_PROVIDER, *OF_CLUSTER):
                for name in several:
                    group.create_task(attack(turns, path, name))
        tried = len(several) * 6
        # On a busy machine one may be given up before what is hostile comes.
        assert reached > tried * (0.9 if at_once == 1 else 0.3), f"{reached} of {tried} answered"
    print(
        f"{len(answers) * 6} hostile responses of a provider and a cluster: no one signed in, at"
        f" most {most / MIB:.1f} MiB read of one, {time.monotonic() - started:.1f} s for all"
    )


async def test_provider_endpoints_must_be_urls() -> None:
    for name in ("authorization_endpoint", "token_endpoint", "jwks_uri", "userinfo_endpoint"):
        for address in ("javascript:alert(1)", "file:///etc/passwd", "//evil.test", "http:", "x"):
            async with Hostile().running() as hostile:
                said = {
                    "issuer": hostile.url, "authorization_endpoint": f"{hostile.url}/a",
                    "token_endpoint": f"{hostile.url}/b", "jwks_uri": f"{hostile.url}/c",
                    name: address,
                }  # fmt: skip
                hostile.answers["/.well-known/openid-configuration"] = said
                with pytest.raises(AuthError):
                    await sign_in(hostile)
                assert len(hostile.paths) == 1


async def test_display_name_needs_a_verified_email() -> None:
    root = "root@example.org"
    for claims, settings, name in (
        ({"preferred_username": "Ada", "email": root}, {}, "Ada"),
        ({"email": root, "email_verified": True}, {}, root),
        ({"email": root}, {}, "ada"),
        ({"email": root, "email_verified": "true"}, {}, "ada"),
        ({"email": root, "email_verified": False}, {"name_claim": "email"}, "ada"),
        # Not every provider says it; who asks for the address by name knows theirs.
        ({"email": root}, {"name_claim": "email"}, root),
        ({}, {}, "ada"),
    ):
        known = Known()
        async with Hostile().running() as provider:
            provider.answers["/who"] = {"sub": "ada", "groups": ["sre"], **claims}
            await sign_in(provider, known, **settings)
        assert [each.name for each in known.persons] == [name], claims


async def test_access_review_repeats_the_user_of_the_token_review() -> None:
    """An authorizer may heed what a token is good for, as OpenShift's does."""
    user = {"username": "ada", "uid": "7", "groups": ["sre"],
            "extra": {"scopes.authorization.openshift.io": ["user:info"]}}  # fmt: skip
    async with Hostile().running() as hostile:
        hostile.answers = {
            OF_CLUSTER[0]: {"status": {"authenticated": True, "user": user}},
            OF_CLUSTER[1]: {"status": {"allowed": True}},
        }
        cluster = ReviewClient(
            KubernetesAccessSettings(server=hostile.url, token=Secret.of("ours"))
        )
        person = await cluster.review_token("theirs")
        assert person is not None
        assert await cluster.review_access(person, LIST_PODS, "default")
        await cluster.close()
    review = json.loads(hostile.bodies[-1])["spec"]
    assert {
        "username": review["user"],
        **{name: review[name] for name in ("uid", "groups", "extra")},
    } == user


async def test_unreadable_token_of_almenara_is_named(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("ours")
    settings = KubernetesAccessSettings(
        server="http://127.0.0.1:1", token=Secret.parse({"file": str(file)})
    )
    file.unlink()
    cluster = ReviewClient(settings)
    with pytest.raises(
        Unavailable, match=r"auth\.kubernetes\.token: .* cannot be read: No such file"
    ):
        await cluster.review_token("theirs")
    await cluster.close()
