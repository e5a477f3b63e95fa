"""Connections that are opened and left half-way: many of them, while others are answered."""

import contextlib
import re
import resource
import selectors
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from support.application import Almenara
from support.servers import wait_until
from support.tls import Encrypted

COUNT = 10_000
TIMEOUT = 5.0
"""Seconds that a connection has for its headers, as it is by default (server.header_timeout)."""
BEGINNINGS: tuple[Callable[[int], bytes], ...] = (
    lambda _: b"",
    lambda _: b"G",
    lambda port: f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n".encode(),
    lambda port: f"GET /live?panel=events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade:".encode(),
)
DRIP = b"X-Slow: 1\r\n"
OTHERS = 10
"""Files that Almenara may open meanwhile, such as those of its databases."""


def resident(pid: int) -> float:
    """MiB of memory that a process holds."""
    status = Path(f"/proc/{pid}/status").read_text()
    return (
        int(next(each for each in status.splitlines() if each.startswith("VmRSS")).split()[1])
        / 1024
    )


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


class Attackers:
    """Connections from several addresses of this machine, and which of them are still there."""

    def __init__(self, port: int) -> None:
        self.port, self.waiting = port, selectors.DefaultSelector()
        self.last = 0.0

    def open(self, beginning: bytes, source: str) -> None:
        each = socket.socket()
        each.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
        each.bind((source, 0))
        each.connect(("127.0.0.1", self.port))
        each.setblocking(False)
        if beginning:
            # Dropped already, because it is one of too many.
            with contextlib.suppress(ConnectionError):
                each.send(beginning)
        self.waiting.register(each, selectors.EVENT_READ)

    @property
    def left(self) -> int:
        return len(self.waiting.get_map())

    def look(self, patience: float) -> None:
        """Take note of those that were dropped."""
        for key, _ in self.waiting.select(patience):
            each = key.fileobj
            assert isinstance(each, socket.socket)
            try:
                is_closed = each.recv(4096) == b""
            except ConnectionError:
                is_closed = True
            if is_closed:
                self.waiting.unregister(each)
                each.close()
                self.last = time.monotonic()

    def drip(self) -> None:
        """Send a little more on each, as if the headers were about to end."""
        for key in list(self.waiting.get_map().values()):
            each = key.fileobj
            assert isinstance(each, socket.socket)
            with contextlib.suppress(ConnectionError, BlockingIOError):
                each.send(DRIP)

    def close(self) -> None:
        for key in list(self.waiting.get_map().values()):
            each = key.fileobj
            assert isinstance(each, socket.socket)
            each.close()
        self.waiting.close()


def answered(client: httpx.Client) -> float:
    started = time.monotonic()
    assert client.get("/healthz").status_code == 200
    return time.monotonic() - started


@pytest.fixture
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < COUNT + 2_000:
        pytest.skip(f"{hard} open files are allowed here, which {COUNT} connections do not fit in")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def almenara(tmp_path: Path, many_files: None) -> Iterator[Almenara]:
    with Almenara(
        tmp_path / "a",
        "nats://127.0.0.1:1",
        PLUGINS__DISABLED="[nats]",
        # As many as can be: the deadline is what must drop them.
        SERVER__MAX_IDLE_CONNECTIONS=str(COUNT),
        SERVER__HEADER_TIMEOUT=str(TIMEOUT),
    ) as running:
        yield running


def test_idle_connections_ten_thousand_are_dropped_in_time(
    almenara: Almenara,
) -> None:
    assert almenara.process is not None
    pid = almenara.process.pid
    idle, before = descriptors(pid), resident(pid)
    attackers = Attackers(almenara.port)
    slowest, most = 0.0, before
    beginnings = [each(almenara.port) for each in BEGINNINGS]
    with httpx.Client(base_url=almenara.url, timeout=10) as client:
        answered(client)
        for number in range(COUNT):
            attackers.open(beginnings[number % 4], f"127.0.0.{2 + number % 8}")
            if number % 500 == 499:
                slowest = max(slowest, answered(httpx.Client(base_url=almenara.url, timeout=10)))
                most = max(most, resident(pid))
                attackers.look(0)
        opened = time.monotonic()
        dripped = opened
        while attackers.left and time.monotonic() < opened + 6 * TIMEOUT:
            attackers.look(0.05)
            if time.monotonic() - dripped > 1:
                attackers.drip()
                dripped = time.monotonic()
                slowest, most = max(slowest, answered(client)), max(most, resident(pid))
    left, took = attackers.left, attackers.last - opened
    attackers.close()
    print(
        f"{COUNT} idle connections: {left} left, the last dropped {took:.1f} s after it was"
        f" opened, {most - before:.0f} MiB more, slowest answer meanwhile {slowest * 1000:.0f} ms"
    )
    assert left == 0
    assert most - before < 200
    wait_until(lambda: descriptors(pid) <= idle + OTHERS, "all descriptors given back")
    assert almenara.status("/healthz") == 200


def test_idle_connections_beyond_the_limit_drop_the_oldest(tmp_path: Path) -> None:
    with Almenara(
        tmp_path / "a",
        "nats://127.0.0.1:1",
        PLUGINS__DISABLED="[nats]",
        SERVER__MAX_IDLE_CONNECTIONS="50",
        SERVER__HEADER_TIMEOUT="60",
    ) as almenara:
        attackers = Attackers(almenara.port)
        for number in range(400):
            attackers.open(b"GET / HTTP/1.1\r\n", f"127.0.0.{2 + number % 8}")

        def only_the_newest() -> bool:
            attackers.look(0)
            return attackers.left <= 50

        wait_until(only_the_newest, "the oldest to be dropped")
        assert attackers.left == 50
        assert almenara.status("/healthz") == 200
        attackers.close()

        # Those that have been answered and are kept for another request are no better.
        attackers = Attackers(almenara.port)
        request = f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{almenara.port}\r\n\r\n".encode()
        for number in range(400):
            attackers.open(request, f"127.0.0.{2 + number % 8}")
        wait_until(only_the_newest, "the oldest answered ones to be dropped")
        assert almenara.status("/healthz") == 200
        attackers.close()


def test_idle_connections_are_not_extended_by_stray_bytes(tmp_path: Path) -> None:
    with Almenara(
        tmp_path / "a",
        "nats://127.0.0.1:1",
        PLUGINS__DISABLED="[nats]",
        SERVER__KEEP_ALIVE="1",
    ) as almenara:
        head = f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{almenara.port}\r\n"
        attackers = {}
        # Line ends that belong to no request, and a body that is not read.
        for drip, more in ((b"\r\n", ""), (b"x", "Content-Length: 60000\r\n")):
            each = socket.create_connection(("127.0.0.1", almenara.port), timeout=10)
            each.sendall(f"{head}{more}\r\n".encode())
            assert each.recv(4096).startswith(b"HTTP/1.1 200")
            each.settimeout(0.05)
            attackers[each] = drip
        started = time.monotonic()
        while attackers:
            assert time.monotonic() - started < 20, f"{len(attackers)} are still kept"
            for each, drip in list(attackers.items()):
                try:
                    each.sendall(drip)
                    is_closed = each.recv(4096) == b""
                except TimeoutError:
                    continue
                except ConnectionError:
                    is_closed = True
                if is_closed:
                    each.close()
                    del attackers[each]


@pytest.mark.parametrize(
    ("more", "address"),
    [
        ("Content-Length: 5\r\n", "/live?panel=events"),
        ("Transfer-Encoding: chunked\r\n", "/live?panel=events"),
        ("".join(f"X-{number}: 1\r\n" for number in range(300)), "/live?panel=events"),
        (f"X-Long: {'x' * 12_000}\r\n", "/live?panel=events"),
        ("", f"/live?panel=events&text={'a' * 9_000}"),
    ],
)
def test_websocket_handshake_malformed_is_answered_and_shutdown_works(
    tmp_path: Path, more: str, address: str
) -> None:
    with Almenara(tmp_path / "a", "nats://127.0.0.1:1", PLUGINS__DISABLED="[nats]") as almenara:
        with socket.create_connection(("127.0.0.1", almenara.port), timeout=20) as each:
            each.sendall(
                f"GET {address} HTTP/1.1\r\nHost: 127.0.0.1:{almenara.port}\r\n"
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                f"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{more}\r\n".encode()
            )
            answer = each.recv(65_536)
            assert re.match(rb"HTTP/1.1 (4\d\d|101) ", answer), answer
            assert almenara.stop() == 0
        assert "Traceback" not in almenara.log


def client_hello(trust: ssl.SSLContext) -> bytes:
    """What a browser begins a handshake with."""
    sent = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        trust.wrap_bio(ssl.MemoryBIO(), sent, server_hostname="127.0.0.1").do_handshake()
    return sent.read()


def test_tls_handshakes_ten_thousand_unfinished_are_bounded(
    tmp_path: Path, many_files: None
) -> None:
    limit = 1_000  # as it is by default
    almenara = Encrypted(
        tmp_path / "it", PLUGINS__DISABLED="[nats]", SERVER__HEADER_TIMEOUT=str(TIMEOUT)
    )
    almenara.issue()
    with almenara:
        assert almenara.process is not None
        pid = almenara.process.pid

        def answered_again() -> float:
            started = time.monotonic()
            assert almenara.status("/healthz") == 200
            return time.monotonic() - started

        answered_again()
        idle, before = descriptors(pid), resident(pid)
        # Nothing, a part of the first record, and all that a browser says before it waits.
        hello = client_hello(almenara.trust)
        beginnings = (b"", hello, hello[:40], hello)
        attackers = Attackers(almenara.port)
        slowest, most = 0.0, before
        with httpx.Client(base_url=almenara.url, verify=almenara.trust, timeout=30) as client:
            answered(client)
            for number in range(COUNT):
                attackers.open(beginnings[number % 4], f"127.0.0.{2 + number % 8}")
                if number % 500 == 499:
                    slowest = max(slowest, answered_again(), answered(client))
                    most = max(most, resident(pid))
                    attackers.look(0)
            opened = time.monotonic()

            def few() -> bool:
                attackers.look(0.05)
                return attackers.left <= limit

            wait_until(few, "all but the last dropped")
            few_after = time.monotonic() - opened
            while attackers.left and time.monotonic() < opened + 6 * TIMEOUT:
                attackers.look(0.05)
                most = max(most, resident(pid))
            slowest = max(slowest, answered(client))
        left, took = attackers.left, attackers.last - opened
        attackers.close()
        print(
            f"{COUNT} unfinished TLS handshakes: at most {limit} after {few_after:.1f} s, {left}"
            f" left after {took:.1f} s, {most - before:.0f} MiB more, slowest answer meanwhile"
            f" {slowest * 1000:.0f} ms"
        )
        assert left == 0
        assert most - before < 150
        wait_until(lambda: descriptors(pid) <= idle + OTHERS, "all descriptors given back")
        assert almenara.status("/healthz") == 200
        # Those that are still there when it ends do not keep it, and nothing of it is an error.
        attackers = Attackers(almenara.port)
        for number in range(100):
            attackers.open(beginnings[number % 4], "127.0.0.2")
        # One that was closing when the idle ones were counted may be closed by now.
        wait_until(lambda: descriptors(pid) >= idle + 98, "all of them there")
        assert almenara.stop() == 0
        attackers.close()
        assert not re.search('Traceback|"level": "error"', almenara.log), almenara.log[-2000:]
