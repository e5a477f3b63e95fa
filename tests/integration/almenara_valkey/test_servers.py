"""Single servers and replicas: what is observed, and what is known of one that does not answer."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from valkey import Valkey

from almenara.config import Secret
from almenara.signals import Event, Severity
from almenara.testing import SourceRun
from almenara_valkey.settings import ValkeyTlsSettings
from support.certificates import issue_self_signed
from support.servers import free_port
from support.valkey import PROGRAM, VALKEY, ValkeyServer, needs_server, needs_valkey, run_servers

pytestmark = [pytest.mark.anyio, needs_server]
README = Path(__file__).parents[3] / "plugins/almenara_valkey/README.md"


def status_of(run: SourceRun, name: str) -> str:
    resource = run.resources.get(name)
    return resource.status if resource is not None else ""


def text_of(run: SourceRun) -> str:
    """Everything that the source has published, payloads included."""
    return msgspec.json.encode(run.bus.signals).decode()


def changes_of(run: SourceRun, name: str) -> list[str]:
    """The types of the changes of a server; how slow a command is depends on the machine."""
    return [
        event.type
        for event in run.events
        if event.subject == name and event.type.startswith("valkey.server.")
    ]


def newest(run: SourceRun, name: str, metric: str) -> float | None:
    values = [
        sample.value for sample in run.samples if (sample.name, sample.metric) == (name, metric)
    ]
    return values[-1] if values else None


def events_of(run: SourceRun, kind: str) -> list[Event]:
    return [event for event in run.events if event.type == kind]


async def test_server_has_state_samples_and_commands(tmp_path: Path, run: Any) -> None:
    with ValkeyServer(tmp_path / "a", "maxmemory 64mb", "maxmemory-policy allkeys-lru") as server:
        async with run(server.url) as source:
            await source.until(lambda: newest(source, server.address, "operations") is not None)
            for _ in range(3):
                server.call("SET", "k", "v")
            server.call("GET", "k")
            server.call("GET", "missing")
            await source.until(lambda: newest(source, server.address, "hit_rate") is not None)
            await source.until(lambda: newest(source, "set", "calls") is not None)
            await source.until(
                lambda: (
                    bool(server.call("SET", "keep", "v"))
                    and newest(source, "set", "duration_p99") is not None
                )
            )
            await source.until(lambda: newest(source, server.address, "keys") == 2)
            resource = source.resources[server.address]
            deployment = source.resources["lab"]
    assert (resource.status, resource.namespace, resource.severity) == ("ok", "lab", Severity.INFO)
    assert resource.state["role"] == "primary"
    assert resource.state["version"].startswith(("Redis ", "Valkey "))
    assert resource.state["memory_limit"] == 64 * 1024**2
    assert resource.state["eviction_policy"] == "allkeys-lru"
    assert (deployment.status, deployment.state["primaries"]) == ("ok", server.address)
    assert 0.0 <= (newest(source, server.address, "hit_rate") or 0) <= 1.0


async def test_killed_server_is_unreachable_and_restarted_once(tmp_path: Path, run: Any) -> None:
    server = ValkeyServer(tmp_path / "a")
    with run_servers(server):
        async with run(server.url) as source:
            await source.until(lambda: status_of(source, server.address) == "ok")
            server.kill()
            await source.until(lambda: status_of(source, server.address) == "unreachable")
            resource = source.resources[server.address]
            assert resource.severity is Severity.ERROR
            assert resource.state["role"] == "primary"
            assert resource.state["stale_since"] > 0
            assert source.resources["lab"].status == "unreachable"
            assert source.is_degraded
            server.start()
            await source.until(lambda: status_of(source, server.address) == "ok")
            assert "stale_since" not in source.resources[server.address].state
            await source.until(lambda: not source.is_degraded)
    assert changes_of(source, server.address) == [
        "valkey.server.unreachable",
        "valkey.server.restarted",
        "valkey.server.recovered",
    ]


async def test_frozen_server_is_unreachable_and_not_restarted(tmp_path: Path, run: Any) -> None:
    with ValkeyServer(tmp_path / "a") as server:
        async with run(server.url) as source:
            await source.until(lambda: status_of(source, server.address) == "ok")
            server.freeze()
            try:
                await source.until(lambda: status_of(source, server.address) == "unreachable")
            finally:
                server.thaw()
            assert "no response within" in source.degraded_for[-1]
            await source.until(lambda: status_of(source, server.address) == "ok")
    assert events_of(source, "valkey.server.restarted") == []


async def test_server_that_loads_its_data_is_loading(tmp_path: Path, run: Any) -> None:
    server = ValkeyServer(
        tmp_path / "a", "key-load-delay 3000", "loading-process-events-interval-bytes 1024"
    )
    with run_servers(server):
        for number in range(1_000):
            server.call("SET", f"key-{number}", "x" * 100)
        server.call("SAVE")
        server.kill()
        server.start()
        async with run(server.url) as source:
            await source.until(lambda: status_of(source, server.address) == "loading")
            await source.until(lambda: source.resources["lab"].status == "degraded")
            await source.until(lambda: status_of(source, server.address) == "ok")


async def test_unreachable_server_of_earlier_run_is_still_known(tmp_path: Path, run: Any) -> None:
    server = ValkeyServer(tmp_path / "a")
    with run_servers(server):
        async with run(server.url) as source:
            await source.until(lambda: status_of(source, server.address) == "ok")
        server.kill()
        async with run(server.url) as source:
            await source.until(lambda: status_of(source, server.address) == "unreachable")


async def test_replica_is_discovered_and_missed(tmp_path: Path, run: Any) -> None:
    primary = ValkeyServer(tmp_path / "a", "repl-diskless-sync-delay 0")
    replica = ValkeyServer(tmp_path / "b", f"replicaof 127.0.0.1 {primary.port}")
    with run_servers(primary, replica):
        async with run(primary.url, forget_after=1.0) as source:
            await source.until(lambda: status_of(source, replica.address) == "ok")
            assert source.resources[replica.address].state["role"] == "replica"
            assert source.resources[replica.address].state["primary"] == primary.address
            await source.until(lambda: source.resources[primary.address].state["replicas"] == 1)
            await source.until(
                lambda: newest(source, primary.address, "replication_lag") is not None
            )
            replica.kill()
            await source.until(lambda: bool(events_of(source, "valkey.server.replica_lost")))
            await source.until(lambda: replica.address not in source.resources)
    assert len(events_of(source, "valkey.server.replica_lost")) == 1


async def test_replica_without_primary_has_its_link_down(tmp_path: Path, run: Any) -> None:
    primary = ValkeyServer(tmp_path / "a", "repl-diskless-sync-delay 0")
    replica = ValkeyServer(tmp_path / "b", f"replicaof 127.0.0.1 {primary.port}")
    with run_servers(primary, replica):
        async with run(replica.url) as source:
            await source.until(lambda: status_of(source, replica.address) == "ok")
            primary.kill()
            await source.until(
                lambda: status_of(source, replica.address) == "replication link down"
            )
            await source.until(lambda: source.resources["lab"].status == "no primary")
    assert primary.address in source.resources[replica.address].state["reason"]


@pytest.mark.parametrize(
    ("policy", "status"), [("noeviction", "memory full"), ("allkeys-lru", "evicting")]
)
async def test_server_at_its_memory_limit(
    tmp_path: Path, run: Any, policy: str, status: str
) -> None:
    with ValkeyServer(tmp_path / "a", "maxmemory 3mb", f"maxmemory-policy {policy}") as server:
        async with run(server.url) as source:
            await source.until(lambda: status_of(source, server.address) == "ok")
            for number in range(60):
                try:
                    server.call("SET", f"key-{number}", "x" * 100_000)
                except Exception as error:
                    assert "OOM" in str(error) or "maxmemory" in str(error)
                    break
            # `maxmemory` below what is used: the limit is reached whatever the allocator does.
            if policy == "noeviction":
                server.call("CONFIG", "SET", "maxmemory", "1mb")
            await source.until(lambda: status_of(source, server.address) == status)


async def test_slow_commands_are_events_without_arguments(tmp_path: Path, run: Any) -> None:
    with ValkeyServer(tmp_path / "a", "slowlog-log-slower-than 0") as server:
        server.call("SET", "customer:42", "secret value")
        async with run(server.url) as source:
            await source.until(
                lambda: any(
                    b'"command":"SET"' in bytes(event.data)
                    for event in events_of(source, "valkey.slow_command")
                )
            )
            assert "customer" not in text_of(source)
        server.call("SLOWLOG", "RESET")
        async with run(server.url, show_keys=True) as source:
            server.call("SET", "customer:43", "secret value")
            await source.until(lambda: "customer:43" in text_of(source))
    assert "secret value" not in text_of(source)
    assert source.bus.repeats == []
    # Our own commands are not among them.
    assert "SLOWLOG GET" not in text_of(source)


@needs_valkey
async def test_large_requests_and_replies_are_events(tmp_path: Path, run: Any) -> None:
    options = (
        "commandlog-execution-slower-than -1", "commandlog-request-larger-than 2000",
        "commandlog-reply-larger-than 2000",
    )  # fmt: skip
    with ValkeyServer(tmp_path / "a", *options, program=VALKEY) as server:
        server.call("SET", "customer:42", "secret value" * 500)
        server.call("GET", "customer:42")
        async with run(server.url) as source:
            await source.until(lambda: bool(events_of(source, "valkey.large_reply")))
            version = source.resources[server.address].state["version"]
    (request,) = events_of(source, "valkey.large_request")
    assert b"the request of SET had 6," in bytes(request.data)
    replies = events_of(source, "valkey.large_reply")
    assert all(b'"command":"GET"' in bytes(event.data) for event in replies)
    assert version.startswith("Valkey ")
    assert "customer" not in text_of(source)
    assert "secret value" not in text_of(source)


async def test_channels_have_subscribers_of_all_servers(tmp_path: Path, run: Any) -> None:
    primary = ValkeyServer(tmp_path / "a", "repl-diskless-sync-delay 0")
    replica = ValkeyServer(tmp_path / "b", f"replicaof 127.0.0.1 {primary.port}")
    with run_servers(primary, replica), contextlib.ExitStack() as stack:
        for server in (primary, primary, replica):
            client = stack.enter_context(Valkey(port=server.port))
            subscription = stack.enter_context(client.pubsub())
            subscription.subscribe("orders")
            assert subscription.get_message(timeout=20)
        async with run(primary.url) as source:
            await source.until(lambda: newest(source, "orders", "subscribers") == 3)
            assert source.resources["orders"].kind == "valkey.channel"


@pytest.mark.parametrize(
    ("option", "status"),
    [
        ({"fragmentation_bytes": 100_000}, "memory fragmented"),
        ({"blocked_clients_limit": 1}, "clients blocked"),
    ],
)
async def test_threshold_is_a_status_and_one_event(
    tmp_path: Path, run: Any, option: dict[str, int], status: str
) -> None:
    with ValkeyServer(tmp_path / "a") as server:
        blocked = asyncio.create_task(
            asyncio.to_thread(server.call, "BLPOP", "queue", 0, socket_timeout=60)
        )
        async with run(server.url, **option) as source:
            await source.until(lambda: status_of(source, server.address) == status)
        server.call("LPUSH", "queue", "1")
        await blocked
    assert changes_of(source, server.address) in (
        [], [f"valkey.server.{status.replace(' ', '_')}"],
    )  # fmt: skip


async def test_failing_snapshot_and_recovery_are_events(tmp_path: Path, run: Any) -> None:
    folder = tmp_path / "a" / "dump"
    folder.mkdir(parents=True)
    with ValkeyServer(tmp_path / "a", f"dir {folder}", "enable-protected-configs yes") as server:
        async with run(server.url) as source:
            await source.until(lambda: status_of(source, server.address) == "ok")
            folder.rmdir()
            server.call("BGSAVE")
            await source.until(lambda: status_of(source, server.address) == "persistence failing")
            folder.mkdir()
            server.call("CONFIG", "SET", "dir", str(folder))
            server.call("BGSAVE")
            await source.until(lambda: status_of(source, server.address) == "ok")
    assert changes_of(source, server.address) == [
        "valkey.server.persistence_failing", "valkey.server.recovered",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("program", "command"),
    [
        pytest.param(PROGRAM, "slowlog", id="redis"),
        pytest.param(VALKEY, "commandlog", id="valkey", marks=needs_valkey),
    ],
)
async def test_documented_rights_are_enough(
    tmp_path: Path, run: Any, program: str, command: str
) -> None:
    text = README.read_text().partition("ACL SETUSER almenara ")[2].partition("```")[0]
    text = text.replace("+slowlog|get", f"+{command}|get")
    with ValkeyServer(tmp_path / "a", program=program) as server:
        server.call("XGROUP", "CREATE", "orders", "workers", "$", "MKSTREAM")
        server.call("ACL", "SETUSER", "almenara", *text.replace("PASSWORD", "pass").split())
        options = {"user": "almenara", "password": Secret.of("pass"), "key_samples": 5}
        async with run(server.url, **options) as source:
            await source.until(lambda: "orders/workers" in source.resources)
            await source.until(lambda: "orders" in source.resources)
            await source.until(lambda: newest(source, server.address, "operations") is not None)
            assert source.degraded_for == []
            server.call("ACL", "SETUSER", "almenara", f"-{command}")
            await source.until(lambda: source.is_degraded)
            assert command.upper() in source.degraded_for[-1]
            # The rest is read as before.
            server.call("XGROUP", "CREATE", "orders", "packers", "$")
            await source.until(lambda: "orders/packers" in source.resources)
            assert status_of(source, server.address) == "ok"


@pytest.mark.parametrize(
    ("password", "reason"),
    [(None, "requires a password"), (Secret.of("wrong-password"), "refuses the password")],
)
async def test_refused_password_is_named_and_not_shown(
    tmp_path: Path, run: Any, password: Secret | None, reason: str
) -> None:
    with ValkeyServer(tmp_path / "a", "requirepass right-password") as server:
        async with run(server.url, password=password) as source:
            await source.until(lambda: status_of(source, server.address) == "unreachable")
    assert reason in source.resources[server.address].state["reason"]
    assert "wrong-password" not in text_of(source) + str(source.degraded_for)


async def test_tls_is_verified(tmp_path: Path, run: Any) -> None:
    issue_self_signed(tmp_path, 2)
    port = free_port()
    server = ValkeyServer(
        tmp_path / "a", "port 0", f"tls-port {port}", f"tls-cert-file {tmp_path / 'cert.pem'}",
        f"tls-key-file {tmp_path / 'key.pem'}", "tls-auth-clients no", port=port,
    )  # fmt: skip
    url = f"rediss://127.0.0.1:{port}"
    with run_servers(server):
        async with run(url, tls=ValkeyTlsSettings(ca=tmp_path / "cert.pem")) as source:
            await source.until(lambda: status_of(source, server.address) == "ok")
        async with run(url) as source:
            # A handshake on a busy machine may take longer than the limit at first.
            await source.until(lambda: "TLS fails" in str(source.resources))
            assert status_of(source, server.address) == "unreachable"
        async with run(server.url) as source:
            await source.until(lambda: "unreachable" in str(source.resources))


async def test_stream_groups_have_pending_and_stall(tmp_path: Path, run: Any) -> None:
    with ValkeyServer(tmp_path / "a") as server:
        for number in range(5):
            server.call("XADD", "orders", "*", "n", number)
        server.call("XGROUP", "CREATE", "orders", "workers", "0")
        server.call("XREADGROUP", "GROUP", "workers", "w1", "COUNT", 2, "STREAMS", "orders", ">")
        async with run(server.url, stalled_after=0.3) as source:
            await source.until(lambda: newest(source, "orders/workers", "pending") == 2)
            assert newest(source, "orders/workers", "length") == 5
            await source.until(lambda: status_of(source, "orders/workers") == "stalled")
            server.call("XREADGROUP", "GROUP", "workers", "w1", "STREAMS", "orders", ">")
            entries = server.call("XRANGE", "orders", "-", "+")
            server.call("XACK", "orders", "workers", *(entry for entry, _ in entries))
            await source.until(lambda: status_of(source, "orders/workers") == "ok")
            server.call("DEL", "orders")
            await source.until(lambda: "orders/workers" not in source.resources)
    assert [event.type for event in source.events if event.subject == "orders/workers"] == [
        "valkey.stream_group.stalled",
        "valkey.stream_group.recovered",
    ]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://127.0.0.1:{port}", "the connection is refused"),
        ("redis://does-not-exist.invalid", "the name cannot be resolved"),
    ],
)
async def test_reason_of_failed_connection_is_plain(run: Any, url: str, reason: str) -> None:
    async with run(url.format(port=free_port()), timeout=5.0) as source:
        await source.until(lambda: "lab" in source.resources)
        assert reason in source.resources["lab"].state["reason"]


async def test_silent_and_wrong_servers_are_unreachable(run: Any) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1_000):
            writer.write(b"$9\r\nnot:valkey\r\n+OK\r\n*-7\r\n\x00\xff")

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        urls = (f"redis://127.0.0.1:{port}", f"redis://127.0.0.1:{free_port()}")
        async with run(*urls) as source:
            await source.until(lambda: status_of(source, f"127.0.0.1:{port}") == "unreachable")
            assert source.resources["lab"].status == "unreachable"
            assert text_of(source)
