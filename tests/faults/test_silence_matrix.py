"""No source claims health of a server that has gone silent, breaks off, drips or lies."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from almenara_demo.simulated_vllm import SimulatedVllm
from support.application import Almenara
from support.faulty_link import FAULTS, FaultyLink
from support.neo4j import PROGRAM as NEO4J, Neo4jServer
from support.raw_nats import RawClient
from support.servers import NatsServer, wait_until
from support.simulated_kubernetes import simulated_kubernetes
from support.simulated_ray import simulated_ray
from support.valkey import PROGRAM as VALKEY, ValkeyServer

HEALTHY: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "nats.stream": ("nats", ("ok",)),
    "nats.consumer": ("nats", ("ok",)),
    "agents.agent": ("nats", ("working", "waiting")),
    "agents.council": ("nats", ("deliberating",)),
    "agents.deliberation": ("nats", ("running",)),
    "agents.story": ("nats", ("created",)),
    "agents.usage": ("nats", ("used",)),
    "kubernetes.cluster": ("kubernetes", ("ok",)),
    "kubernetes.pod": ("kubernetes", ("Running",)),
    "kubernetes.node": ("kubernetes", ("Ready",)),
    "ray.cluster": ("ray", ("up",)),
    "prometheus.target": ("prometheus", ("up",)),
    "process": ("prometheus", ("scraped",)),
    "http.check": ("http", ("up", "slow")),
    "vllm.server": ("vllm", ("ok", "idle", "asleep")),
    "vllm.model": ("vllm", ("ok", "idle")),
    **({"valkey.server": ("valkey", ("ok",)), "valkey.deployment": ("valkey", ("ok",))}
       if VALKEY else {}),
    **({"neo4j.server": ("neo4j", ("ok",)), "neo4j.database": ("neo4j", ("online",))}
       if NEO4J else {}),
}  # fmt: skip
"""By kind: the server behind it, and the statuses that claim health."""
WORK: Sequence[Mapping[str, object]] = (
    {},
    {"event_type": "STORY_CREATED", "story_id": "S", "title": "A story"},
    {"event_type": "DELIBERATION_STARTED", "story_id": "S", "task_id": "t", "role": "DEV",
     "agents": ["ada", "eve"]},
    {"event_type": "AGENT_RESPONSE_COMPLETED", "task_id": "t", "agent_id": "ada", "model": "m",
     "proposal": "a queue", "metrics": {"tokens_in": 3, "tokens_out": 1}},
)  # fmt: skip
"""What agents publish who are at work."""
PROVEN_BY_SOURCE = {"kubernetes.pod", "kubernetes.node"}
"""Kinds whose resources keep their last status; whether it still holds is their source's."""


class Metrics(BaseHTTPRequestHandler):
    """A page of metrics, and any other page."""

    def do_GET(self) -> None:
        body = f"process_resident_memory_bytes {time.time()}\n".encode()
        self.send_response(200)
        self.send_header("content-type", "text/plain; version=0.0.4")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextlib.contextmanager
def page() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Metrics)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def redirect(kubeconfig: Path, port: int) -> int:
    """Have a kubeconfig lead to another port; return the port that it led to."""
    tree = yaml.safe_load(kubeconfig.read_text("utf-8"))
    cluster = tree["clusters"][0]["cluster"]
    before = urlsplit(cluster["server"]).port
    cluster["server"] = f"http://127.0.0.1:{port}"
    kubeconfig.write_text(yaml.safe_dump(tree), "utf-8")
    assert before is not None
    return before


@pytest.fixture
def links(tmp_path: Path) -> Iterator[tuple[dict[str, FaultyLink], dict[str, str]]]:
    """A link to a server of every kind, and the settings that use them."""
    with contextlib.ExitStack() as stack:
        nats = stack.enter_context(NatsServer(tmp_path / "nats"))
        kubernetes = stack.enter_context(simulated_kubernetes(tmp_path / "kubernetes", 20))
        ray = stack.enter_context(simulated_ray())
        pages = stack.enter_context(page())
        client = RawClient(nats.port)
        client.make_stream("FLEET", "fleet")
        for fields in WORK:
            client.publish("fleet", json.dumps(fields).encode())
        client.close()
        clusters = json.loads(ray["plugins__ray__clusters"])
        kubeconfig = tmp_path / "kubernetes" / "simulated.kubeconfig"
        ports = {
            "nats": nats.port,
            "kubernetes": redirect(kubeconfig, 1),
            "ray": urlsplit(clusters[0]["url"]).port or 0,
            "prometheus": pages,
            "http": pages,
        }
        vllm = stack.enter_context(SimulatedVllm())
        ports["vllm"] = vllm.port
        if VALKEY:
            ports["valkey"] = stack.enter_context(ValkeyServer(tmp_path / "valkey")).port
        if NEO4J:
            ports["neo4j"] = stack.enter_context(Neo4jServer(tmp_path / "neo4j")).port
        made = {name: stack.enter_context(FaultyLink(port)) for name, port in ports.items()}
        url = {name: f"http://127.0.0.1:{link.port}" for name, link in made.items()}
        redirect(kubeconfig, made["kubernetes"].port)
        clusters[0]["url"] = url["ray"]
        target = {
            "name": "page", "url": f"{url['prometheus']}/metrics", "presets": ["process"],
            "every": 1, "timeout": 2,
        }  # fmt: skip
        check = {"name": "site", "url": url["http"], "every": 1, "timeout": 2}
        often = {"every": 1, "timeout": 2}
        server = {"name": "model", "url": url["vllm"], **often}
        deployments = {
            name: [{"name": name, "urls": [f"{scheme}://127.0.0.1:{made[name].port}"], **often}]
            for name, scheme in (("valkey", "redis"), ("neo4j", "bolt"))
            if name in made
        }
        yield (
            made,
            {
                **kubernetes,
                "plugins__vllm__servers": json.dumps([server]),
                **{
                    f"plugins__{name}__deployments": json.dumps(each)
                    for name, each in deployments.items()
                },
                "plugins__agents__enabled": "true",
                "plugins__agents__default_silence": "3600",
                "plugins__nats__servers": f'["nats://127.0.0.1:{made["nats"].port}"]',
                "plugins__ray__clusters": json.dumps(clusters),
                "plugins__prometheus__targets": json.dumps([target]),
                "plugins__http__checks": json.dumps([check]),
            },
        )


def claims(almenara: Almenara) -> dict[str, str]:
    """The kinds of resources that claim health, each with a status."""
    statuses: dict[str, str] = {}
    for resource in almenara.get("/api/resources?limit=5000"):
        kind, status = resource["kind"], resource["status"]
        if kind in PROVEN_BY_SOURCE and resource["source_status"] != "running":
            continue
        _, healthy = HEALTHY.get(kind, ("", ()))
        if status in healthy and not resource["deleted"]:
            statuses[kind] = status
    return statuses


def wait_for_health(almenara: Almenara) -> None:
    try:
        wait_until(lambda: claims(almenara).keys() == HEALTHY.keys(), "everything healthy", 90)
    except AssertionError:
        statuses = {
            (each["kind"], each["name"]): each["status"]
            for each in almenara.get("/api/resources?limit=5000")
            if each["kind"] in HEALTHY
        }
        raise AssertionError(f"not everything is healthy again: {statuses}") from None


def test_no_source_claims_health_of_a_faulty_server(
    tmp_path: Path, links: tuple[dict[str, FaultyLink], dict[str, str]]
) -> None:
    made, settings = links
    slowest: dict[str, float] = {}
    with Almenara(tmp_path / "almenara", **settings) as almenara:
        for fault in FAULTS:
            wait_for_health(almenara)
            for link in made.values():
                link.set(fault)
            started = time.monotonic()
            wait_until(lambda: not claims(almenara), f"no claim of health, {fault}", 60)
            slowest[fault] = time.monotonic() - started
            wait_until(
                lambda: all(
                    source["status"] != "running"
                    for source in almenara.get("/api/sources")
                    # A check that fails is what these two are for, and agents have no server.
                    if not source["name"].startswith(("http", "prometheus", "agents"))
                ),
                f"every source degraded, {fault}",
                60,
            )
            overview = almenara.text("/")
            assert "degraded" in overview or "sources with problems" in overview, fault
            for link in made.values():
                link.set("pass")
        wait_for_health(almenara)
    cases = len(FAULTS) * len(HEALTHY)
    print(f"{cases} cases of {len(made)} sources and {len(FAULTS)} faults, 0 claimed health; s:")
    print(", ".join(f"{fault} {seconds:.1f}" for fault, seconds in slowest.items()))
