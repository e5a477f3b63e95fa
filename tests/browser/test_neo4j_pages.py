"""The graph of Neo4j in a real browser: live, with stable positions, and within the policy."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from support.application import Almenara

GRAPH = "/dashboards/neo4j.graph"


def node(key: str, label: str = "Story", **properties: Any) -> dict[str, Any]:
    properties = {"id": key, **properties}
    return {"id": key, "labels": [label], "properties": properties}


def edge(start: str, end: str) -> dict[str, Any]:
    return {"id": f"{start}>{end}", "type": "HAS", "start": start, "end": end, "properties": {}}


NODES = [node("a", title="Add a login button"), *(node(f"t{n}", "Subtask") for n in range(6))]
EDGES = [edge("a", f"t{n}") for n in range(5)] + [edge("t4", "t5")]


def write(path: Path, nodes: list[dict[str, Any]], edges: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps({"nodes": nodes, "relationships": edges}))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write(tmp_path / "graph.json", NODES, EDGES)
    return tmp_path / "graph.json"


@pytest.fixture
def almenara(tmp_path: Path, file: Path) -> Iterator[Almenara]:
    deployment = {
        "name": "lab", "urls": ["bolt://simulated"], "simulated": str(file), "every": 0.5,
        "graphs": [{"name": "context", "every": 0.2}],
    }  # fmt: skip
    config = {"plugins": {"neo4j": {"deployments": [deployment]}, "disabled": ["nats"]}}
    with Almenara(tmp_path / "almenara", config=config) as almenara:
        yield almenara


def positions(page: Page) -> dict[str, tuple[str, str]]:
    return {
        name: (x, y)
        for name, x, y in page.eval_on_selector_all(
            ".neo4j-node",
            "all => all.map(one => [one.id, one.querySelector('circle').getAttribute('cx'),"
            " one.querySelector('circle').getAttribute('cy')])",
        )
    }


def test_graph_follows_changes_without_moving_nodes(
    almenara: Almenara, file: Path, page: Page
) -> None:
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda each: problems.append(each.text) if each.type == "error" else None)
    page.goto(almenara.url + GRAPH)
    expect(page.locator("#live")).to_have_attribute("data-state", "live")
    drawn = page.locator(".neo4j-node")
    expect(drawn).to_have_count(7)
    before = positions(page)
    # The element itself stays, so that what has the focus keeps it.
    page.evaluate("window.kept = document.querySelector('.neo4j-node')")
    changed = [node("a", title="Remove the login button"), *NODES[1:-1], node("d", "Decision")]
    write(file, changed, [*EDGES[:-1], edge("t1", "d")])
    expect(page.locator(".neo4j-node[data-change=new]")).to_have_count(1, timeout=30_000)
    expect(page.locator(".neo4j-node[data-change=removed]")).to_have_count(1, timeout=30_000)
    expect(page.locator(".neo4j-node[data-change=changed]")).to_contain_text("Remove the login")
    after = positions(page)
    assert {name: after[name] for name in before} == before
    assert page.evaluate("window.kept.isConnected")
    expect(page.locator(".neo4j-node[data-change=removed]")).to_have_count(0, timeout=30_000)
    expect(drawn).to_have_count(7)
    assert page.locator(".neo4j-node circle").first.evaluate("it => getComputedStyle(it).fill") != (
        "rgb(0, 0, 0)"
    )
    assert problems == []


def test_click_opens_a_node_that_expands(almenara: Almenara, page: Page) -> None:
    page.goto(almenara.url + GRAPH)
    page.locator(".neo4j-node", has_text="login").locator("circle").click()
    expect(page.locator(".neo4j-facts")).to_contain_text("Add a login button")
    expect(page.locator(".neo4j-node")).to_have_count(6)
    expect(page.locator(".neo4j-node[data-centre]")).to_contain_text("Add a login")
    page.get_by_role("link", name="Expand by one").click()
    expect(page.locator(".neo4j-node")).to_have_count(7)
    page.locator(".neo4j-neighbours a").first.click()
    expect(page.locator(".neo4j-node[data-centre]")).not_to_contain_text("login")


def test_search_and_label_narrow_the_graph(almenara: Almenara, page: Page) -> None:
    page.goto(almenara.url + GRAPH)
    page.get_by_label("Search").fill("login")
    page.get_by_role("button", name="Filter").click()
    expect(page.locator(".neo4j-node[data-match]")).to_have_count(1)
    expect(page.locator("#panel-neo4j-graph-nodes tbody tr")).to_have_count(1)
    page.locator(".neo4j-legend a", has_text="Subtask").click()
    expect(page.locator(".neo4j-node")).to_have_count(6)
    with page.expect_download() as download:
        page.get_by_role("link", name="GraphML").first.click()
    text = Path(download.value.path()).read_text("utf-8")
    assert text.count("<node ") == 6
    assert download.value.suggested_filename == "neo4j.graph-drawing.graphml"
