"""The pages and the exports of simulated graphs, in the application."""

import contextlib
import json
import tempfile
import urllib.error
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from almenara.testing import conformance
from support.application import Almenara
from support.servers import wait_until

HOSTILE = "<script>alert('x')</script>\"'>& \u202e\x07"
GRAPHML = "{http://graphml.graphdrawing.org/xmlns}"


def write_graph(path: Path, key: str, **properties: Any) -> None:
    nodes = [
        {
            "id": "story:1",
            "labels": ["Story"],
            "properties": {"story_id": key, "password": "hunter2-secret", **properties},
        },
        {"id": "role:1", "labels": ["Role", HOSTILE], "properties": {"name": HOSTILE}},
    ]
    edge = {
        "id": "e:1", "type": HOSTILE, "start": "story:1", "end": "role:1", "properties": {},
    }  # fmt: skip
    path.write_text(json.dumps({"nodes": nodes, "relationships": [edge], "transactions": 3}))


def deployment(name: str, path: Path) -> dict[str, Any]:
    graphs = [{"name": name, "every": 0.2}]
    return {
        "name": name, "urls": ["bolt://simulated"], "simulated": str(path), "graphs": graphs,
    }  # fmt: skip


@pytest.fixture(scope="module")
def almenara(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Almenara]:
    folder = tmp_path_factory.mktemp("graphs")
    deployments = []
    for name in ("ours", "theirs"):
        write_graph(folder / name, f"story-of-{name}", title=f"Title of {name}")
        deployments.append(deployment(name, folder / name))
    config = {
        "plugins": {"neo4j": {"deployments": deployments}, "disabled": ["nats"]},
        "auth": {"mode": "token"},
    }
    with Almenara(folder / "almenara", config=config) as almenara:
        yield almenara


@pytest.fixture(scope="module")
def tokens(almenara: Almenara) -> dict[str, str]:
    created = {
        name: almenara.command("access", "create", name, "--role", "viewer", *options)
        for name, options in {"all": (), "ours": ("--source", "neo4j/graph/ours")}.items()
    }
    tokens = {name: process.stdout.strip() for name, process in created.items()}
    wait_until(
        lambda: all(
            "story-of-ours" in get(almenara, "/api/resources?limit=500", token)[0]
            for token in tokens.values()
        ),
        "the graphs",
    )
    return tokens


@contextlib.contextmanager
def observed() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.json"
        write_graph(path, "US-1")
        away = {"name": "away", "urls": ["bolt://127.0.0.1:1"], "every": 0.1, "password": "x"}
        yield {
            "deployments": [
                {**deployment("lab", path), "every": 0.1},
                away,
            ]
        }


test_neo4j_keeps_the_rules = conformance(
    "neo4j",
    observed,
    last_known={"neo4j.node": "neo4j.graph", "neo4j.relationship": "neo4j.graph"},
)


def get(almenara: Almenara, path: str, token: str) -> tuple[str, Any]:
    """The body and the headers of a response; empty for one that failed."""
    request = urllib.request.Request(
        almenara.url + path, headers={"authorization": f"Bearer {token}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.read().decode(), response.headers
    except urllib.error.HTTPError as error:
        return "", {"status": str(error.code)}


def test_page_draws_the_graph_and_names_it_simulated(
    almenara: Almenara, tokens: dict[str, str]
) -> None:
    body, _ = get(almenara, "/dashboards/neo4j.graph?namespace=theirs", tokens["all"])
    assert body.count("<circle") == 2
    assert "Title of theirs" in body
    assert "Title of ours" not in body
    assert "Simulated data" in body
    assert "<script>alert" not in body
    assert "style=" not in body
    node, _ = get(almenara, "/dashboards/neo4j.node?namespace=theirs&name=story:1", tokens["all"])
    assert "story-of-theirs" in node
    assert "hunter2-secret" not in body + node
    assert "hunter2-secret" not in get(almenara, "/api/resources?limit=500", tokens["all"])[0]
    assert node.count("<circle") == 2
    health, _ = get(almenara, "/dashboards/neo4j", tokens["all"])
    assert "5.26.0" in health


def test_exports_are_well_formed(almenara: Almenara, tokens: dict[str, str]) -> None:
    path = "/panels/neo4j.graph-drawing/exports/"
    body, headers = get(almenara, f"{path}svg?namespace=ours", tokens["all"])
    assert headers["content-type"].startswith("image/svg+xml")
    assert headers["content-disposition"] == 'attachment; filename="neo4j.graph-drawing.svg"'
    assert len(list(ET.fromstring(body).iter("{http://www.w3.org/2000/svg}circle"))) == 2
    body, headers = get(almenara, f"{path}graphml?namespace=ours&node=story-of-ours", tokens["all"])
    graph = ET.fromstring(body).find(f"{GRAPHML}graph")
    assert graph is not None
    nodes = {each.get("id") for each in graph.findall(f"{GRAPHML}node")}
    assert nodes == {"story:1", "role:1"}
    edge = graph.find(f"{GRAPHML}edge")
    assert edge is not None
    assert (edge.get("source"), edge.get("target")) == ("story:1", "role:1")
    assert headers["content-type"].startswith("application/graphml+xml")
    for wrong in ("/panels/neo4j.graph-drawing/exports/pdf", "/panels/neo4j.no/exports/svg",
                  "/panels/events/exports/svg"):  # fmt: skip
        assert get(almenara, wrong, tokens["all"])[1]["status"] == "404"
    assert get(almenara, f"{path}svg", "wrong")[1]["status"] == "401"


def test_exports_are_limited_to_the_scope(almenara: Almenara, tokens: dict[str, str]) -> None:
    for export in ("svg", "graphml"):
        for query in ("", "?namespace=ours", "?namespace=theirs", "?node=story-of-theirs"):
            path = f"/panels/neo4j.graph-drawing/exports/{export}{query}"
            everything, _ = get(almenara, path, tokens["all"])
            body, headers = get(almenara, path, tokens["ours"])
            assert "content-disposition" in headers
            assert "theirs" not in body
            assert everything
    body, _ = get(almenara, "/panels/neo4j.graph-drawing/exports/svg", tokens["ours"])
    assert "Title of ours" in body


def test_page_of_graphs_follows_changes(tmp_path: Path) -> None:
    path = tmp_path / "graph.json"
    write_graph(path, "US-1", title="Before")
    config = {"plugins": {"neo4j": {"deployments": [deployment("g", path)]}, "disabled": ["nats"]}}
    with Almenara(tmp_path / "almenara", config=config) as almenara:
        wait_until(lambda: "Before" in almenara.text("/dashboards/neo4j.graph"), "the graph")
        write_graph(path, "US-1", title="After")
        wait_until(lambda: "After" in almenara.text("/dashboards/neo4j.graph"), "the change")
        wait_until(
            lambda: (
                "neo4j.graph.node.changed"
                in almenara.text("/dashboards/neo4j.node?namespace=g&name=story:1")
            ),
            "the event of the node",
        )
        path.write_text("no graph")
        wait_until(
            lambda: "cannot be read" in almenara.text("/dashboards/neo4j.graph"), "the failure"
        )
        assert "After" in almenara.text("/dashboards/neo4j.graph")
