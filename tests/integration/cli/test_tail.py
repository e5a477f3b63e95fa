"""`almenara tail`."""

import json
from pathlib import Path

import pytest

from support.application import Almenara
from support.command_line import output_of
from support.planning_stream import publish_planning
from support.servers import NatsServer

pytestmark = pytest.mark.anyio


async def test_tail_escapes_hostile_events(nats_server: NatsServer, almenara: Almenara) -> None:
    nasty = "\x1b[2J\x9b31m\u202egpj.exe\u2066\x85\u200b\x00\r\n"
    body = {"event_type": f"BAD{nasty}", "title": nasty, nasty: [nasty]}
    for payload in (json.dumps(body).encode(), json.dumps(body, ensure_ascii=False).encode()):
        await publish_planning(nats_server, payload)
    almenara.wait_for_events(2)
    for options in ((), ("--json",)):
        done = almenara.command("tail", "--url", almenara.url, "--no-follow", *options)
        assert done.returncode == 0, done.stderr
        lines = done.stdout.removesuffix("\n").split("\n")
        assert len(lines) == 2, done.stdout
        assert all(each.isprintable() for each in lines), lines
    assert [json.loads(each)["data"]["title"] for each in lines] == [nasty, nasty]


def test_tail_without_a_token_says_how_to_get_one(tmp_path: Path) -> None:
    with Almenara(tmp_path, auth__mode="token") as running:
        done = running.command("tail", "--url", running.url, "--no-follow")
    assert done.returncode == 1
    output = output_of(done)
    assert f"{running.url} requires sign-in" in output
    assert "Set ALMENARA_TOKEN to an API token" in output
    assert "`almenara access create NAME`" in output
