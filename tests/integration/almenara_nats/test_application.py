import asyncio
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import nats
import nkeys
import pytest
from nats.js.api import StreamConfig
from nkeys import PREFIX_BYTE_USER, encode_seed

from support.application import Almenara
from support.nats_source import until_read
from support.raw_nats import RawClient
from support.servers import NatsServer, free_port, wait_until

pytestmark = pytest.mark.anyio

STREAMS = {
    "PLANNING_EVENTS": "planning.>",
    "ORCHESTRATOR_EVENTS": "orchestration.>",
    "CONTEXT_EVENTS": "context.>",
    "AGENT_RESULTS": "agent.>",
    "VLLM_STREAMING": "vllm.streaming.*",
    "DEAD_LETTERS": "deadletter",
}


async def with_streams(server: NatsServer, *names: str) -> Any:
    client = await nats.connect(server.url, max_reconnect_attempts=-1, reconnect_time_wait=0.2)
    for name in names or STREAMS:
        await client.jetstream().add_stream(StreamConfig(name=name, subjects=[STREAMS[name]]))
    return client


async def test_history_has_every_message_of_every_stream_once(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    client = await with_streams(nats_server)
    by_id = {"PLUGINS__NATS__DEDUPLICATE_BY": "id"}
    with Almenara(tmp_path / "almenara", nats_server.url, **by_id) as almenara:
        check_history_of_every_stream(nats_server, almenara)
    await client.close()


def check_history_of_every_stream(nats_server: NatsServer, almenara: Almenara) -> None:
    raw = RawClient(nats_server.port)
    ce = {"specversion": "1.0", "id": "ce-s", "source": "/fleet", "type": "org.example.approved"}
    messages: list[tuple[str, bytes, dict[str, str] | None]] = [
        ("planning.story.created", b'{"event_type":"STORY_CREATED","story_id":"US-1"}', None),
        ("planning.plan.approved", json.dumps({**ce, "data": {"a": 1}}).encode(), None),
        ("orchestration.task.dispatched", b'{"b":1}',
         {f"ce-{k}": v for k, v in {**ce, "id": "ce-b"}.items()}),
        ("context.updated", json.dumps({"event_type": "E", "payload": {}, "idempotency_key": "k1"})
         .encode(), None),
        ("agent.response.failed", b'{"task_id":"t-1","error":"x","error_type":"E"}', None),
        ("agent.results.t-1", b'{"n":1}', {"Nats-Msg-Id": "m-1"}),
        ("vllm.streaming.a", b'{"type":"vllm_token","token":"a"}', None),
        ("deadletter", b'{"topic":"t","reason":"r","raw":"x"}', None),
        ("context.odd", b'{"not": json}', None),
        ("context.odd", b"\xff\xfe\x00", None),
        ("context.odd", b"", None),
        ("context.odd", b"[" * 1000 + b"]" * 1000, None),
        ("context.huge", b'{"a":"' + b"x" * (8 * 1024**2 - 100) + b'"}', None),
    ]  # fmt: skip
    for subject, payload, headers in messages:
        raw.publish(subject, payload, headers)
    # The same ids again: nothing of it may be stored.
    raw.publish("planning.again", json.dumps({**ce, "data": {"a": 2}}).encode())
    raw.publish("context.again", b'{"event_type":"E","idempotency_key":"k1"}')
    raw.publish("context.last", b'{"event_type":"LAST"}')
    raw.flush()
    raw.close()
    almenara.wait_for_events(len(messages) + 1)
    wait_until(lambda: almenara.events("?type=LAST"), "the last message")
    events = almenara.events()
    assert len(events) == len(messages) + 1
    assert {event["origin"] for event in events} == {f"nats/{name}" for name in STREAMS}
    ids = {event["id"] for event in events}
    assert {"ce-s", "ce-b", "k1", "m-1"} <= ids
    odd = [event for event in events if event["problem"]]
    assert len(odd) == 5
    assert all(event["raw"] is not None for event in odd)
    (failed,) = almenara.events("?severity=ERROR&type=agent.response.failed")
    assert failed["correlation"] == "t-1"


async def test_source_starts_without_nats_and_reads_when_it_runs(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats")
    with Almenara(tmp_path / "almenara", server.url) as almenara:
        wait_until(lambda: almenara.get("/api/sources")[0]["status"] == "degraded", "degraded")
        assert "cannot be reached" in almenara.get("/api/sources")[0]["error"]
        assert almenara.status("/healthz") == almenara.status("/readyz") == 200
        assert almenara.status("/") == 200
        with server:
            client = await with_streams(server, "PLANNING_EVENTS")
            await client.jetstream().publish("planning.a", b"{}")
            almenara.wait_for_events(1)
            assert almenara.get("/api/sources")[0]["status"] == "running"
            await client.close()


async def test_frozen_server_is_noticed_and_reading_continues(
    nats_server: NatsServer, almenara: Almenara
) -> None:
    client = await with_streams(nats_server, "PLANNING_EVENTS")
    await client.jetstream().publish("planning.a", b"{}")
    almenara.wait_for_events(1)
    nats_server.freeze()
    started = time.monotonic()
    wait_until(lambda: almenara.get("/api/sources")[0]["status"] != "running", "notice", 10)
    noticed = time.monotonic() - started
    nats_server.thaw()
    assert noticed <= 7
    await client.jetstream().publish("planning.b", b"{}")
    almenara.wait_for_events(2)
    await client.close()


async def test_recreated_stream_or_consumer_loses_and_doubles_nothing(
    nats_server: NatsServer, almenara: Almenara
) -> None:
    client = await with_streams(nats_server, "PLANNING_EVENTS")
    jetstream = client.jetstream()
    for number in range(5):
        await jetstream.publish("planning.a", json.dumps({"first": number}).encode())
    almenara.wait_for_events(5)
    await jetstream.delete_consumer("PLANNING_EVENTS", "almenara")
    await jetstream.publish("planning.a", b'{"between": 1}')
    almenara.wait_for_events(6)
    await jetstream.delete_stream("PLANNING_EVENTS")
    await jetstream.add_stream(StreamConfig(name="PLANNING_EVENTS", subjects=["planning.>"]))
    for number in range(5):
        await jetstream.publish("planning.a", json.dumps({"second": number}).encode())
    almenara.wait_for_events(11)
    payloads = [json.dumps(event["data"]) for event in almenara.events()]
    assert len(payloads) == len(set(payloads)) == 11
    await client.close()


async def test_streams_and_consumers_are_resources_with_samples(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    client = await with_streams(nats_server, "PLANNING_EVENTS")
    await client.jetstream().pull_subscribe(
        "planning.>", durable="forgetful", stream="PLANNING_EVENTS"
    )
    for _ in range(3):
        await client.jetstream().publish("planning.a", b"{}")
    quick = {"PLUGINS__NATS__OBSERVE": "0.2", "PLUGINS__NATS__STALLED_AFTER": "0.5"}
    with Almenara(tmp_path / "a", nats_server.url, **quick) as almenara:
        path = "/api/resources?kind=nats.consumer"

        def stalled() -> bool:
            return any(
                each["name"] == "forgetful" and each["status"] == "stalled"
                for each in almenara.get(path)
            )

        wait_until(stalled, "a stalled consumer")
        wait_until(
            lambda: (
                almenara.get("/api/resources?kind=nats.stream")[0]["samples"].get("messages") == 3
            ),
            "the samples of the stream",
        )
        consumer = next(each for each in almenara.get(path) if each["name"] == "forgetful")
        assert consumer["samples"]["pending"] == 3
        assert consumer["severity"] == "WARN"
        assert "forgetful stalled" in almenara.text("/")
    await client.close()


async def test_core_subjects_are_marked_at_most_once(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    settings = {"PLUGINS__NATS__SUBJECTS": "[core.>]"}
    with Almenara(tmp_path / "a", nats_server.url, **settings) as almenara:
        client = await nats.connect(nats_server.url)
        wait_until(lambda: almenara.get("/api/sources")[0]["status"] == "running", "running")

        async def publish_until_stored() -> None:
            while almenara.stored() < 1:
                await client.publish("core.a", b'{"event_type":"CORE"}')
                await client.flush()

        await publish_until_stored()
        event = almenara.events()[0]
        assert event["origin"] == "nats/core"
        assert event["attributes"]["delivery"] == "at-most-once"
        await client.close()


async def test_start_new_reads_new_messages_only(tmp_path: Path, nats_server: NatsServer) -> None:
    client = await with_streams(nats_server, "PLANNING_EVENTS")
    await client.jetstream().publish("planning.a", b'{"old": 1}')
    with Almenara(tmp_path / "a", nats_server.url, PLUGINS__NATS__START="new") as almenara:

        async def wait_for_consumer() -> None:
            while not await client.jetstream().consumers_info("PLANNING_EVENTS"):
                pass

        await wait_for_consumer()
        await client.jetstream().publish("planning.a", b'{"new": 1}')
        almenara.wait_for_events(1)
        assert [event["data"] for event in almenara.events()] == [{"new": 1}]
    await client.close()


async def test_commands_apply_publish_tail_and_diagnose(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    apply = "[{name: PLANNING_EVENTS, subjects: ['planning.>']}]"
    with Almenara(tmp_path / "a", nats_server.url, PLUGINS__NATS__APPLY=apply) as almenara:
        assert "PLANNING_EVENTS: created" in almenara.command("streams", "apply").stdout
        assert "unchanged" in almenara.command("streams", "apply").stdout
        done = almenara.command("publish", "planning.story.created", '{"story_id": "US-7"}')
        assert "Stored in PLANNING_EVENTS" in done.stdout
        assert "core NATS" in almenara.command("publish", "no.subscriber", "{}").stdout
        refused = almenara.command("publish", "planning.x", "{not json")
        assert refused.returncode == 1
        assert "is not JSON" in refused.stderr
        almenara.wait_for_events(1)
        tail = almenara.command("tail", "--no-follow", "--correlation", "US-7")
        assert "planning.story.created" in tail.stdout
        assert "not a severity" in almenara.command("tail", "--severity", "bad").stderr
        doctor = almenara.command("doctor")
        assert doctor.returncode == 0, doctor.stdout
        assert "stream PLANNING_EVENTS" in doctor.stdout
        nats_server.stop()
        doctor = almenara.command("doctor")
        assert doctor.returncode == 1
        assert "cannot be reached" in doctor.stdout


async def test_forget_deletes_the_consumers_of_a_stopped_installation(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    client = await with_streams(nats_server, "AGENT_RESULTS", "DEAD_LETTERS")
    jetstream = client.jetstream()
    await jetstream.add_consumer("AGENT_RESULTS", durable_name="of-another")
    with Almenara(tmp_path / "a", nats_server.url) as almenara:
        for stream in ("AGENT_RESULTS", "DEAD_LETTERS"):
            await until_read(jetstream, stream)
        refused = almenara.command("streams", "forget")
        assert refused.returncode == 1
        assert "AGENT_RESULTS: kept, because a client reads through 'almenara'" in refused.stdout
    done = almenara.command("streams", "forget")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "AGENT_RESULTS: consumer 'almenara' deleted", "DEAD_LETTERS: consumer 'almenara' deleted",
    ]  # fmt: skip
    assert [each.name for each in await jetstream.consumers_info("AGENT_RESULTS")] == ["of-another"]
    assert "No stream has the consumer" in almenara.command("streams", "forget").stdout
    await client.close()


async def test_inactive_consumer_is_deleted_by_the_server(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    client = await with_streams(nats_server, "AGENT_RESULTS")
    jetstream = client.jetstream()
    settings = {"PLUGINS__NATS__INACTIVE_THRESHOLD": "0.5"}
    with Almenara(tmp_path / "a", nats_server.url, **settings) as almenara:
        await until_read(jetstream, "AGENT_RESULTS")
        stored = (await jetstream.stream_info("AGENT_RESULTS")).state.messages
        almenara.wait_for_events(stored)
        almenara.stop()
        async with asyncio.timeout(30):
            while await jetstream.consumers_info("AGENT_RESULTS"):
                await asyncio.sleep(0.05)
        await jetstream.publish(
            (await jetstream.stream_info("AGENT_RESULTS")).config.subjects[0], b"{}"
        )
        almenara.start()
        # Reading continues at the stored position.
        almenara.wait_for_events(stored + 1)
        await until_read(jetstream, "AGENT_RESULTS")
        assert len(almenara.events()) == stored + 1
    await client.close()


async def test_password_is_used_and_never_shown(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats")
    server.config.write_text(
        server.config.read_text()
        + 'authorization { users: [{user: "watch", password: "s3cr3t-word"}] }\n'
    )
    with server:
        right = {"PLUGINS__NATS__USER": "watch", "PLUGINS__NATS__PASSWORD": "s3cr3t-word"}
        with Almenara(tmp_path / "right", server.url, **right) as almenara:
            wait_until(lambda: almenara.get("/api/sources")[0]["status"] == "running", "running")
        wrong = {"PLUGINS__NATS__USER": "watch", "PLUGINS__NATS__PASSWORD": "wr0ng-word"}
        with Almenara(tmp_path / "wrong", server.url, **wrong) as almenara:
            wait_until(lambda: almenara.get("/api/sources")[0]["status"] == "degraded", "degraded")
            output = almenara.text("/sources") + almenara.text("/api/sources") + almenara.log
            assert "Check credentials" in output
            assert "wr0ng-word" not in output


def certificate(folder: Path, name: str, *options: str) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", f"/CN={name}", "-keyout", f"{name}.key",
         "-out", f"{name}.crt", *options],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip


@pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made with openssl")
async def test_tls_with_private_authority_and_client_certificate(tmp_path: Path) -> None:
    certificate(tmp_path, "authority")
    issued = ("-CA", "authority.crt", "-CAkey", "authority.key")
    certificate(tmp_path, "server", *issued, "-addext", "subjectAltName=IP:127.0.0.1")
    certificate(tmp_path, "client", *issued)
    server = NatsServer(tmp_path / "nats")
    server.config.write_text(
        server.config.read_text()
        + f'tls {{ cert_file: "{tmp_path}/server.crt", key_file: "{tmp_path}/server.key",'
        f' ca_file: "{tmp_path}/authority.crt", verify: true }}\n'
    )
    tls = {"ca": "authority.crt", "certificate": "client.crt", "key": "client.key"}
    for count, state in ((3, "running"), (1, "degraded")):
        settings = {
            f"PLUGINS__NATS__TLS__{name.upper()}": str(tmp_path / file)
            for name, file in list(tls.items())[:count]
        }
        with server, Almenara(tmp_path / state, server.url, **settings) as almenara:

            def reached(almenara: Almenara = almenara, state: str = state) -> bool:
                return bool(almenara.get("/api/sources")[0]["status"] == state)

            wait_until(reached, state)


async def test_token_and_nkey_connect_past_a_dead_server(tmp_path: Path) -> None:
    seed = encode_seed(os.urandom(32), PREFIX_BYTE_USER)
    public = nkeys.from_seed(seed).public_key.decode()
    (tmp_path / "seed").write_bytes(seed)
    ways = {
        "token": ('token: "t0ken-word"', {"TOKEN": "t0ken-word"}),
        "nkey": (f'users: [{{nkey: "{public}"}}]', {"NKEY": str(tmp_path / "seed")}),
    }
    for name, (rule, values) in ways.items():
        server = NatsServer(tmp_path / f"nats-{name}")
        server.config.write_text(f"{server.config.read_text()}authorization {{ {rule} }}\n")
        settings = {f"PLUGINS__NATS__{key}": value for key, value in values.items()}
        dead = f"nats://127.0.0.1:{free_port()}"
        settings["PLUGINS__NATS__SERVERS"] = f'["{dead}", "{server.url}"]'
        with server, Almenara(tmp_path / name, server.url, **settings) as almenara:

            def running(almenara: Almenara = almenara) -> bool:
                return bool(almenara.get("/api/sources")[0]["status"] == "running")

            wait_until(running, f"running with a {name}")
            assert "t0ken-word" not in almenara.text("/sources") + almenara.log
