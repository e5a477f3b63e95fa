"""The context graph of the simulated fleet follows its messages, within bounds."""

import itertools

import msgspec

from almenara_demo.context_graph import KEYS, MAX_STORIES, ContextGraph, GraphWriter
from almenara_demo.fleet import Fleet, Message
from almenara_neo4j.simulation import SimulatedGraph


def make_graph(count: int) -> ContextGraph:
    graph = ContextGraph()
    for message in itertools.islice(Fleet(3).messages(50), count):
        graph.accept(message)
    return graph


def test_graph_has_every_label_and_is_bounded() -> None:
    graph = make_graph(5_000)
    labels = [label for label, _ in graph.nodes]
    assert set(labels) == set(KEYS)
    assert labels.count("Story") == MAX_STORIES
    assert all(start in graph.nodes and end in graph.nodes for _, start, end in graph.relationships)
    statuses = {
        node.get("status") for (label, _), node in graph.nodes.items() if label == "Subtask"
    }
    assert {"done", "failed"} & statuses


def test_file_is_what_the_plugin_reads() -> None:
    graph = make_graph(800)
    content = msgspec.json.decode(graph.encode(), type=SimulatedGraph)
    assert len(content.nodes) == len(graph.nodes)
    ids = {node.id for node in content.nodes}
    assert all({each.start, each.end} <= ids for each in content.relationships)


def test_messages_that_cannot_be_read_change_nothing() -> None:
    graph = ContextGraph()
    for payload in (b"", b"no json", b"[1]", b'{"event_type": "OTHER"}', b"{}"):
        graph.accept(Message("context.updated", payload))
    assert (graph.nodes, graph.changes) == ({}, 0)


def test_writer_yields_only_what_differs() -> None:
    graph = make_graph(800)
    writer = GraphWriter(graph)
    assert list(writer.statements())
    assert list(writer.statements()) == []
    story = next(key for key in graph.nodes if key[0] == "Story")
    graph.nodes[story]["title"] = "Another title"
    ((query, parameters),) = writer.statements()
    assert "MERGE (n:Story {story_id: row.key})" in query
    assert [row["key"] for row in parameters["rows"]] == [story[1]]
    del graph.nodes[story]
    graph.relationships = {
        each: None for each in graph.relationships if story not in (each[1], each[2])
    }
    ((query, parameters),) = writer.statements()
    assert "DETACH DELETE" in query
    assert parameters == {"keys": [story[1]]}
