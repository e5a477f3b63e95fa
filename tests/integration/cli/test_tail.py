"""`almenara tail`."""

import json

import pytest

from support.application import Almenara
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
