"""TLS without a proxy in front: real certificates, which change while pages are open."""

import asyncio
import contextlib
import http.client
import json
import resource
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)
from websockets.asyncio.client import ClientConnection, connect

from almenara.config import ConfigError, TlsSettings
from almenara.web.tls import tls_context
from support.application import Almenara
from support.authority import Authority
from support.raw_nats import RawClient
from support.servers import NatsServer, wait_until
from support.tls import NO_NATS, Encrypted

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encrypted]:
    almenara = Encrypted(tmp_path_factory.mktemp("tls") / "it")
    almenara.issue()
    with almenara:
        yield almenara


def live(almenara: Encrypted) -> connect:
    return connect(
        f"wss://127.0.0.1:{almenara.port}/live?panel=events", ssl=almenara.trust,
        origin=almenara.url,  # type: ignore[arg-type]
    )  # fmt: skip


def test_tls_pages_set_hsts(encrypted: Encrypted) -> None:
    connection = encrypted.connection()
    connection.request("GET", "/events")
    answer = connection.getresponse()
    assert answer.status == 200
    assert answer.headers["strict-transport-security"] == "max-age=31536000"
    connection.close()
    with pytest.raises((http.client.BadStatusLine, ConnectionError)):
        plain = http.client.HTTPConnection("127.0.0.1", encrypted.port, timeout=10)
        plain.request("GET", "/healthz")
        plain.getresponse()


def test_tls_below_1_2_is_refused(encrypted: Encrypted) -> None:
    old = ssl.create_default_context(cafile=str(encrypted.authority.path))
    # By itself the client's library would not even ask for so old a protocol.
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.deprecated_call():
        old.minimum_version = ssl.TLSVersion.TLSv1
    connection = encrypted.connection(old)
    connection.request("GET", "/healthz")
    assert connection.getresponse().status == 200
    connection.close()
    with pytest.deprecated_call():
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        encrypted.connection(old).request("GET", "/healthz")


async def alive(page: ClientConnection) -> None:
    await (await page.ping())


async def test_tls_certificate_reload_keeps_connections(encrypted: Encrypted) -> None:
    before = encrypted.serial()
    kept = encrypted.connection()
    kept.request("GET", "/healthz")
    kept.getresponse().read()
    async with live(encrypted) as page:
        assert await page.recv()
        started = time.monotonic()
        fresh = encrypted.issue()
        assert fresh != before
        refused = 0
        while encrypted.serial() != fresh:
            refused += encrypted.status("/healthz") != 200
            assert time.monotonic() - started < 60, "the new certificate is not used"
        print(f"a new certificate is used after {time.monotonic() - started:.1f} s")
        assert refused == 0
        await alive(page)
        kept.request("GET", "/healthz")
        assert kept.getresponse().status == 200
    kept.close()


async def test_tls_invalid_certificate_keeps_the_old_one(
    encrypted: Encrypted, tmp_path: Path
) -> None:
    before = encrypted.serial()
    other, its_key = Authority(tmp_path).issue("other", server=True)
    ours = encrypted.authority.issue("ours", server=True)
    broken = tmp_path / "broken"
    broken.write_text("-----BEGIN CERTIFICATE-----\nnone\n")
    started = time.monotonic()
    async with live(encrypted) as page:
        for cert, key, said in (
            (other, ours[1], "is not the key of the certificate"),
            (broken, its_key, "contains no certificate in PEM"),
            (ours[0], broken, "the key must be a private key"),
        ):
            heard = encrypted.log.count("the old one stays")
            encrypted.put(cert, key)
            await asyncio.to_thread(
                wait_until,
                lambda heard=heard: encrypted.log.count("the old one stays") > heard,
                said,
            )
            assert said in encrypted.log
            assert encrypted.serial() == before
        (encrypted.secret / "..data").unlink()
        await asyncio.to_thread(
            wait_until, lambda: "cannot read " in encrypted.log, "the log entry"
        )
        assert encrypted.status("/healthz") == 200
        # Longer than a page may take to take what is sent: this one takes all of it.
        assert time.monotonic() - started > 6
        assert "beat" in [name for _ in range(2) for name in json.loads(await page.recv())]
        await alive(page)
    fresh = encrypted.issue()
    wait_until(lambda: encrypted.serial() == fresh, "the certificate that is good again")


def test_tls_unfinished_handshake_is_dropped(encrypted: Encrypted) -> None:
    """As headers that never come are: within `server.header_timeout`, here one second."""
    hello = bytes.fromhex("1603010200010001fc0303") + b"\x00" * 40
    parked = []
    for number in range(60):
        sock = socket.create_connection(("127.0.0.1", encrypted.port), timeout=10)
        if number % 3 == 1:
            sock.sendall(hello)
        elif number % 3 == 2:
            sock = encrypted.trust.wrap_socket(sock, server_hostname="127.0.0.1")
            sock.sendall(b"GET / HTTP/1.1\r\nHost: loc")
        parked.append(sock)
    started = time.monotonic()
    for sock in parked:
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            assert sock.recv(100) == b""
        sock.close()
    print(f"60 unfinished connections dropped after {time.monotonic() - started:.1f} s")
    assert encrypted.status("/healthz") == 200


def test_tls_accept_waits_without_file_descriptors(
    encrypted: Encrypted,
) -> None:
    assert encrypted.process is not None
    pid = encrypted.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    room = len(list(Path(f"/proc/{pid}/fd").iterdir())) + 20
    kept = encrypted.connection()
    kept.request("GET", "/healthz")
    kept.getresponse().read()
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (room, before[1]))
    try:
        parked = [socket.create_connection(("127.0.0.1", encrypted.port)) for _ in range(60)]
        wait_until(lambda: "cannot accept connections" in encrypted.log, "word of it")
        kept.request("GET", "/healthz")
        assert kept.getresponse().read()
        for each in parked:
            each.close()
        wait_until(lambda: encrypted.status("/healthz") == 200, "room again")
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        kept.close()


async def test_tls_client_that_stops_reading_is_dropped(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    client = RawClient(nats_server.port)
    client.make_stream("PLANNING_EVENTS", "planning.>")
    almenara = Encrypted(tmp_path / "it", nats_server.url)
    almenara.issue()
    with almenara:
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.connect(("127.0.0.1", almenara.port))
        stalled = almenara.trust.wrap_socket(plain, server_hostname="127.0.0.1")
        stalled.sendall(
            (
                f"GET /live?panel=events HTTP/1.1\r\nHost: 127.0.0.1:{almenara.port}\r\n"
                f"Origin: {almenara.url}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            ).encode()
        )
        async with live(almenara) as page:
            await page.recv()
            wait_until(lambda: almenara.get("/api/health")["subscribers"] == 2, "both")
            filling = json.dumps({"event_type": "FILLING", "x": "y" * 80}).encode()
            started = time.monotonic()
            while almenara.get("/api/health")["subscribers"] == 2:
                assert time.monotonic() - started < 60
                for _ in range(100):
                    client.publish("planning.a", filling)
                await asyncio.sleep(0.05)
            print(
                f"a client that reads nothing is dropped after {time.monotonic() - started:.1f} s"
            )
            await alive(page)
        assert "almenara_slow_browsers_total 1.0" in almenara.text("/metrics")
        stalled.close()
    client.close()


def test_tls_client_ca_requires_client_certificates(tmp_path: Path) -> None:
    almenara = Encrypted(tmp_path / "it")
    almenara.environment["ALMENARA_SERVER__TLS__CLIENT_CA"] = str(almenara.secret / "ca.crt")
    clients, others = ((tmp_path / each) for each in ("clients", "others"))
    clients.mkdir()
    others.mkdir()
    theirs, strangers = Authority(clients), Authority(others)
    server = almenara.authority.issue("server", server=True)

    def context(authority: Authority | None) -> ssl.SSLContext:
        created = ssl.create_default_context(cafile=str(almenara.authority.path))
        if authority is not None:
            created.load_cert_chain(*authority.issue("proxy"))
        return created

    def answered(tls: ssl.SSLContext) -> bool:
        connection = almenara.connection(tls)
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    known, unknown, without = context(theirs), context(strangers), context(None)
    almenara.put(*server, theirs.path)
    almenara.trust = known
    with almenara:
        assert [answered(each) for each in (known, unknown, without)] == [True, False, False]
        # The authority changes as the certificate does, and the old one is not believed any more.
        almenara.put(*server, strangers.path)
        wait_until(lambda: answered(unknown), "the new authority")
        assert [answered(each) for each in (known, unknown, without)] == [False, True, False]


def test_tls_invalid_files_are_named_at_start(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.issue("ours", server=True)
    other, _ = authority.issue("other", server=True)
    secret = tmp_path / "secret.key"
    secret.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")
        )
    )
    for settings, said in (
        (TlsSettings(cert=tmp_path / "none.crt", key=key), "server.tls.cert: "),
        (TlsSettings(cert=tmp_path, key=key), "Is a directory"),
        (TlsSettings(cert=cert, key=tmp_path / "none.key"), "server.tls.key: "),
        (TlsSettings(cert=key, key=key), "contains no certificate in PEM"),
        (TlsSettings(cert=cert, key=cert), "the key must be a private key"),
        (TlsSettings(cert=other, key=key), "is not the key of the certificate in"),
        (TlsSettings(cert=cert, key=secret), "is encrypted, and the password cannot be entered"),
        (TlsSettings(cert=cert, key=key, client_ca=key), "server.tls.client_ca: "),
    ):
        with pytest.raises(ConfigError) as error:
            tls_context(settings)
        assert said in str(error.value)
    assert tls_context(TlsSettings(cert=cert, key=key)).verify_mode == ssl.CERT_NONE
    almenara = Almenara(
        tmp_path / "a", NO_NATS, SERVER__TLS__CERT=str(other), SERVER__TLS__KEY=str(key)
    )
    done = almenara.command("serve")
    assert done.returncode == 1
    assert "is not the key" in done.stderr
