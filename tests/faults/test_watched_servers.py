"""Valkey, Neo4j and vLLM servers that are killed, frozen, cut off, slowed and restarted while they
are watched: the page shows each state, each change is one event, and no secret is stored.

`ALMENARA_FAULT_LIMIT=10` uses the default intervals, and fails where a state is shown later than
after so many seconds. Without it the test measures nothing, since a machine under load is slow.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.application import Almenara
from support.faulty_link import FaultyLink
from support.neo4j import PROGRAM as NEO4J, Neo4jServer
from support.server_process import ServerProcess
from support.servers import wait_until
from support.valkey import PROGRAM as VALKEY, ValkeyServer
from support.vllm import VllmServer

LIMIT = float(os.environ.get("ALMENARA_FAULT_LIMIT", "0"))
OFTEN = {} if LIMIT else {"every": 0.5, "timeout": 10.0}
PATIENCE = 180.0
SECRET = "s3cr3tQ7f3a"
"""Is in the password of each server, in the commands of Valkey and in the queries of Neo4j."""
HEALTHY = ("ok", "idle")
DELAYED = 15
"""Delayed parts of answers that are more than those of one observation."""
EVENTS = ["unreachable", "restarted", "recovered", *["unreachable", "recovered"] * 2]
"""Of a server that was killed and started again, frozen and thawed, cut off and connected."""

pytestmark = pytest.mark.skipif(
    not (NEO4J and VALKEY), reason="a Neo4j server or a Valkey server is missing"
)


class Watched:
    """One server of each kind behind a link of its own, and what the application shows of them."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.valkey = ValkeyServer(
            folder / "valkey", f"requirepass {SECRET}-valkey", "slowlog-log-slower-than 0"
        )
        self.neo4j = Neo4jServer(folder / "neo4j", f"{SECRET}-neo4j")
        self.vllm = VllmServer(folder / "vllm", f"{SECRET}-vllm")
        self.servers: Mapping[str, ServerProcess] = {
            "valkey": self.valkey, "neo4j": self.neo4j, "vllm": self.vllm,
        }  # fmt: skip
        for server in self.servers.values():
            stack.enter_context(server)
        self.links = {
            name: stack.enter_context(FaultyLink(server.port))
            for name, server in self.servers.items()
        }
        self.almenara = stack.enter_context(
            Almenara(folder / "almenara", config={"plugins": self._configure()})
        )
        self.seconds: dict[str, float] = {}

    def _configure(self) -> dict[str, Any]:
        at = {name: f"127.0.0.1:{link.port}" for name, link in self.links.items()}
        valkey = {"urls": [f"redis://{at['valkey']}"], "password": f"{SECRET}-valkey"}
        neo4j = {
            "urls": [f"bolt://{at['neo4j']}"], "password": f"{SECRET}-neo4j",
            "long_query_after": 0.2,
        }  # fmt: skip
        vllm = {"url": f"http://{at['vllm']}", "api_key": f"{SECRET}-vllm"}
        return {
            "disabled": ["nats"],
            "valkey": {"deployments": [{"name": "lab", **valkey, **OFTEN}]},
            "neo4j": {"deployments": [{"name": "lab", **neo4j, **OFTEN}]},
            "vllm": {"servers": [{"name": "lab", **vllm, **OFTEN}]},
        }

    def statuses(self) -> dict[str, str]:
        """The status of each server, by the name of its plugin."""
        return {
            resource["kind"].removesuffix(".server"): resource["status"]
            for resource in self.almenara.get("/api/resources?limit=1000")
            if resource["kind"].endswith(".server")
        }

    def is_healthy(self) -> bool:
        """Whether all are healthy."""
        statuses = self.statuses()
        return len(statuses) == 3 and all(each in HEALTHY for each in statuses.values())

    def wait_for_health(self) -> None:
        wait_until(self.is_healthy, "everything healthy", PATIENCE)

    def is_unreachable(self, name: str) -> bool:
        """Whether the API and the page show a server as unreachable."""
        if self.statuses().get(name) != "unreachable":
            return False
        return "unreachable" in self.almenara.text(f"/dashboards/{name}")

    @contextmanager
    def fault(self, name: str, act: Callable[[str], None]) -> Iterator[None]:
        """Act on each server; in the block each one is shown as unreachable."""
        self.wait_for_health()
        acted = {}
        for each in self.servers:
            act(each)
            acted[each] = time.monotonic()
        for each, at in acted.items():
            wait_until(
                lambda each=each: self.is_unreachable(each), f"{each} unreachable, {name}", PATIENCE
            )
            self.seconds[f"{each} {name}"] = time.monotonic() - at
        yield

    def kinds_of_events(self) -> dict[str, list[str]]:
        """The kinds of the events of each server, in order."""
        kinds: dict[str, list[str]] = {name: [] for name in self.servers}
        for event in self.almenara.events():
            name, _, kind = event["type"].partition(".server.")
            if kind:
                kinds[name].append(kind)
        return kinds


def store_secrets(watched: Watched) -> None:
    """Have Valkey log a slow command, and Neo4j run a long query that waits for a lock."""
    watched.valkey.call("SET", f"customer:{SECRET}", SECRET, password=f"{SECRET}-valkey")
    watched.neo4j.call("CREATE (:Lock {id: 'a'})")
    query = f"MATCH (n:Lock) SET n.holder = '{SECRET}', n.other = $other"

    def wait_for_lock() -> None:
        with watched.neo4j.transaction() as transaction:
            transaction.run(query, other=SECRET).consume()

    def types() -> set[str]:
        return {event["type"] for event in watched.almenara.events()}

    with watched.neo4j.transaction("MATCH (n:Lock) SET n.holder = 'x'"):
        waiting = threading.Thread(target=wait_for_lock)
        waiting.start()
        wait_until(
            lambda: {"neo4j.query.blocked", "valkey.slow_command"} <= types(), "events", PATIENCE
        )
    waiting.join()


def slow_down(watched: Watched) -> None:
    """Delay every answer: each server stays healthy."""
    watched.wait_for_health()
    for link in watched.links.values():
        link.set("slow")
    wait_until(
        lambda: all(link.delayed >= DELAYED for link in watched.links.values()),
        "observations of slow servers", PATIENCE,
    )  # fmt: skip
    watched.wait_for_health()


def find_secrets(watched: Watched, pages: Mapping[str, str]) -> list[str]:
    """The outputs and stored files that have a secret."""
    outputs = {**pages, "log": watched.almenara.log}
    for file in (watched.almenara.folder / "var").rglob("*"):
        if file.is_file():
            outputs[str(file)] = file.read_bytes().decode("utf-8", "replace")
    return [name for name, text in outputs.items() if SECRET in text]


def test_servers_that_are_watched_have_each_state_once(tmp_path: Path) -> None:
    with ExitStack() as stack:
        watched = Watched(tmp_path, stack)
        servers, links = watched.servers, watched.links
        watched.wait_for_health()
        # A server that has just started may not have answered at first.
        earlier = watched.kinds_of_events()
        store_secrets(watched)
        with watched.fault("killed", lambda name: servers[name].kill()):
            for server in servers.values():
                server.start()
        with watched.fault("frozen", lambda name: servers[name].freeze()):
            for server in servers.values():
                server.thaw()
        with watched.fault("cut off", lambda name: links[name].set("refuse")):
            for link in links.values():
                link.set("pass")
        slow_down(watched)
        for name, kinds in watched.kinds_of_events().items():
            assert kinds[len(earlier[name]) :] == EVENTS, name
        pages = {
            path: watched.almenara.text(path)
            for path in ("/", "/events", "/sources", *(f"/dashboards/{name}" for name in servers),
                         "/api/resources?limit=1000", "/api/events.ndjson", "/metrics")
        }  # fmt: skip
        print(json.dumps({what: round(each, 1) for what, each in watched.seconds.items()}))
        if LIMIT:
            assert max(watched.seconds.values()) <= LIMIT
    assert find_secrets(watched, pages) == []
