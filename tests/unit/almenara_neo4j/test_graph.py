"""The graph in rows, its resources and events, and what is drawn of it."""

from typing import Any

import pytest
from hypothesis import given, strategies as st

from almenara.bus.validation import check_batch
from almenara.hookspecs import ResourceQuery
from almenara.sdk import Snapshots, now
from almenara.signals import Event, Resource
from almenara_neo4j.drawing import frame, prepare_graph
from almenara_neo4j.graph import choose_part, collect_graph
from almenara_neo4j.graph_lookup import InvalidValueError, make_request, read_values
from almenara_neo4j.graph_mapping import map_graph
from almenara_neo4j.graph_panels import prepare_node, prepare_node_events, prepare_nodes
from almenara_neo4j.graph_queries import (
    make_search_query,
    make_summary_query,
    make_whole_query,
)
from almenara_neo4j.graph_state import FADE, GraphState
from almenara_neo4j.settings import DeploymentSettings, GraphSettings, Neo4jSettings
from almenara_neo4j.values import Node, Relationship

pytestmark = pytest.mark.anyio
SETTINGS = GraphSettings(name="context")


def node(key: str, label: str = "Story", **properties: Any) -> Node:
    return Node(key, (label,), {"id": key, **properties})


def relationship(start: str, end: str, kind: str = "HAS") -> Relationship:
    return Relationship(f"{start}-{end}", kind, start, end, {})


def rows(*entities: Node | Relationship) -> list[dict[str, Any]]:
    return [{"entity": entity} for entity in entities]


CHAIN = rows(
    node("a", title="First"), node("b", "Subtask"), node("c", "Decision"), node("d", "Role"),
    relationship("a", "b"), relationship("b", "c", "PRODUCED"), relationship("c", "d"),
)  # fmt: skip


class Data:
    """A `DataView` of resources and events."""

    moment = None

    def __init__(self, resources: list[Resource], events: list[Event] | None = None) -> None:
        self._resources, self._events = resources, events or []

    def resources(self, query: ResourceQuery) -> list[Resource]:
        return [
            each
            for each in self._resources
            if each.kind == query.kind and query.namespace in ("", each.namespace)
        ]

    def resource(self, kind: str, namespace: str, name: str) -> Resource | None:
        return next((each for each in self._resources if each.key == (kind, namespace, name)), None)

    async def events(self, filters: dict[str, str], *, limit: int) -> list[tuple[int, Event]]:
        return [
            (number, event)
            for number, event in enumerate(self._events)
            if filters.get("subject", event.subject) == event.subject
            and filters.get("correlation", event.correlation) == event.correlation
        ][:limit]


def accept(state: GraphState, update: list[dict[str, Any]], at: int) -> None:
    state.update(collect_graph(update, state.settings), at)


def drawn(*updates: list[dict[str, Any]], settings: GraphSettings = SETTINGS) -> list[Resource]:
    """The resources after each of the updates was read."""
    state = GraphState(settings)
    for update in updates:
        accept(state, update, now())
    resources, _ = state.take(now())
    summary = {"nodes": len(state.graph.nodes), "labels": settings.labels}
    return [map_graph(settings, summary, is_partial=state.graph.is_partial), *resources]


def test_graph_is_collected_from_nested_values() -> None:
    first, second, edge = node("a"), node("b"), relationship("a", "b")
    matches = collect_graph(
        [{"path": [first, [second, {"x": edge}]], "n": 5}, {"again": first}], SETTINGS
    )
    assert (list(matches.nodes), list(matches.relationships)) == (["a", "b"], ["a-b"])
    assert not matches.is_partial


def test_limits_make_a_graph_partial() -> None:
    limited = GraphSettings(name="g", node_limit=2, relationship_limit=1)
    matches = collect_graph(rows(node("a"), node("b"), node("c"), relationship("a", "c")), limited)
    assert (list(matches.nodes), list(matches.relationships)) == (["a", "b"], [])
    assert matches.is_partial
    assert collect_graph(rows(node("a"), node("b")), limited).is_partial is False
    both = rows(node("a"), node("b"), relationship("a", "b"), relationship("b", "a"))
    assert collect_graph(both, limited).is_partial


def test_queries_quote_labels_and_properties() -> None:
    settings = GraphSettings(name="g", labels=["A`B", "C"], changed_property="up dated")
    assert "n:`A``B` OR n:`C`" in make_whole_query(settings).text
    assert "n.`up dated` DESC LIMIT 301" in make_whole_query(settings).text
    assert "max(n.`up dated`) AS changed" in make_summary_query(settings).text


def test_what_a_viewer_enters_is_no_text_of_a_query() -> None:
    query = make_search_query(SETTINGS, ["'}) delete"])
    assert "delete" not in query.text
    assert query.parameters["words"] == ["'}) delete"]


def test_part_has_the_chosen_nodes_and_what_is_near() -> None:
    whole = collect_graph(CHAIN, SETTINGS)
    part = choose_part(whole, lambda each: each.id == "c", 1, SETTINGS)
    assert (set(part.nodes), set(part.relationships)) == ({"b", "c", "d"}, {"b-c", "c-d"})
    limited = choose_part(
        whole, lambda each: each.id == "c", 2, GraphSettings(name="g", node_limit=2)
    )
    assert (next(iter(limited.nodes)), len(limited.nodes), limited.is_partial) == ("c", 2, True)


def test_another_part_has_nothing_new_or_removed() -> None:
    state = GraphState(SETTINGS)
    state.update(collect_graph(rows(node("a"), node("b")), SETTINGS), 1)
    state.take(1)
    state.update(collect_graph(rows(node("b"), node("c")), SETTINGS), 2, is_other_part=True)
    resources, _ = state.take(2)
    assert {each.name: each.status for each in resources} == {"b": "present", "c": "present"}
    assert not any("created" in each.state for each in resources)


INPUTS = GraphSettings(
    name="g", query="MATCH (n) RETURN n", inputs=["team", "depth", "is_open"],
    parameters={"team": "red", "depth": 2, "is_open": True, "fixed": "x"},
)  # fmt: skip


@pytest.mark.parametrize(
    ("entered", "values"),
    [
        ({}, ()),
        ({"team": "red", "depth": "2"}, ()),
        ({"team": "blue"}, (("team", "blue"),)),
        ({"depth": "3", "is_open": "False"}, (("depth", 3), ("is_open", False))),
        ({"fixed": "y", "other": "z"}, ()),
    ],
)
def test_entered_values_have_the_type_of_the_parameter(
    entered: dict[str, str], values: tuple[Any, ...]
) -> None:
    assert read_values(INPUTS, entered) == values


@given(st.text())
def test_any_entered_text_is_a_value_or_an_error(text: str) -> None:
    for name in INPUTS.inputs:
        try:
            ((_, value),) = read_values(INPUTS, {name: text}) or ((name, INPUTS.parameters[name]),)
        except InvalidValueError as error:
            assert name in str(error)
        else:
            assert type(value) is type(INPUTS.parameters[name])


def test_only_what_the_stored_part_lacks_is_requested() -> None:
    for filters in ({}, {"text": "a"}, {"name": "4:x:1"}):
        assert make_request(SETTINGS, filters, 1, is_partial=False) is None
    assert make_request(SETTINGS, {}, 1, is_partial=True) is None
    request = make_request(SETTINGS, {"text": "Login NOW"}, 3, is_partial=True)
    assert request is not None
    assert (request.words, request.hops) == (("login", "now"), 1)
    assert make_request(INPUTS, {"team": "blue"}, 1, is_partial=False) is not None


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"inputs": ["team"]}, "set a value for 'team'"),
        ({"inputs": ["text"], "parameters": {"text": ""}}, "'text' cannot be entered"),
        ({"inputs": ["a-b"], "parameters": {"a-b": ""}}, "'a-b' cannot be entered"),
        ({"inputs": ["a"], "parameters": {"a": ""}, "query": ""}, "parameters of a query"),
    ],
)
def test_inputs_are_checked(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        GraphSettings(name="g", **{"query": "RETURN 1", **options})


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=8),
              st.floats(allow_nan=False, allow_infinity=False)),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children),
    max_leaves=5,
)  # fmt: skip
NODES = st.builds(
    Node, st.text(min_size=1, max_size=3), st.lists(st.text(max_size=4), max_size=2).map(tuple),
    st.dictionaries(st.sampled_from(["title", "id", "name", "x"]), VALUES),
)  # fmt: skip
ENDS = st.text(min_size=1, max_size=3)
RELATIONSHIPS = st.builds(Relationship, ENDS, st.text(max_size=5), ENDS, ENDS, st.just({}))
GRAPHS = st.lists(st.one_of(NODES, RELATIONSHIPS), max_size=8).map(lambda each: rows(*each))


@given(GRAPHS, GRAPHS)
def test_any_graph_becomes_valid_signals(
    first: list[dict[str, Any]], second: list[dict[str, Any]]
) -> None:
    state, snapshots = GraphState(SETTINGS), Snapshots()
    for update in (first, second):
        accept(state, update, now())
        resources, events = state.take(now())
        check_batch([*snapshots.difference(resources), *events])


def test_changes_have_events_and_removed_nodes_fade() -> None:
    state = GraphState(SETTINGS)
    state.update(
        collect_graph(
            rows(node("a", title="First"), node("b"), relationship("a", "b")), state.settings
        ),
        1,
    )
    resources, events = state.take(1)
    assert (len(resources), events) == (3, [])
    before = {each.name: (each.state.get("x"), each.state.get("y")) for each in resources}
    accept(state, rows(node("a", title="Other"), node("c")), 2)
    resources, events = state.take(2)
    assert {(event.type, event.subject) for event in events if isinstance(event, Event)} == {
        ("neo4j.graph.node.changed", "a"), ("neo4j.graph.node.created", "c"),
        ("neo4j.graph.node.removed", "b"),
    }  # fmt: skip
    assert {each.name: each.status for each in resources} == {
        "a": "present", "c": "present", "b": "removed", "a-b": "removed",
    }  # fmt: skip
    assert {
        each.name: (each.state.get("x"), each.state.get("y"))
        for each in resources
        if each.name in before
    } == before
    resources, events = state.take(2 + FADE)
    assert ({each.name for each in resources}, events) == ({"a", "c"}, [])


def test_many_changes_are_one_event() -> None:
    state = GraphState(SETTINGS)
    accept(state, [], 1)
    state.update(
        collect_graph(rows(*(node(str(number)) for number in range(60))), state.settings), 2
    )
    _, events = state.take(2)
    (event,) = events
    assert isinstance(event, Event)
    assert (event.type, event.data["reason"]) == (
        "neo4j.graph.changed", "60 nodes created, 0 nodes changed, 0 nodes removed",
    )  # fmt: skip


def test_nodes_that_a_limit_moves_out_are_not_reported_as_removed() -> None:
    state = GraphState(GraphSettings(name="g", node_limit=2))
    accept(state, rows(node("a"), node("b"), node("c")), 1)
    accept(state, rows(node("d"), node("a"), node("b")), 2)
    _, events = state.take(2)
    assert events == []


def test_only_listed_properties_are_shown() -> None:
    settings = GraphSettings(name="g", properties=["title"])
    resources = drawn(
        rows(node("a", title="T", secret="s", embedding=[0.1] * 9)), settings=settings
    )
    assert resources[1].state["properties"] == {"title": "T"}
    assert resources[1].state["key"] == "a"
    assert drawn(rows(node("a", embedding=[0.1] * 9)))[1].state["properties"] == {
        "embedding": "list of 9", "id": "a",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({}, {"a", "b", "c", "d"}),
        ({"node": "b"}, {"a", "b", "c"}),
        ({"node": "first"}, {"a", "b"}),
        ({"name": "a", "hops": "2"}, {"a", "b", "c"}),
        ({"name": "a", "hops": "nonsense"}, {"a", "b"}),
        ({"node": "nothing"}, set()),
        ({"label": "Role"}, {"d"}),
        ({"namespace": "other"}, set()),
    ],
)  # fmt: skip
async def test_filters_select_a_part(filters: dict[str, str], names: set[str]) -> None:
    values = await prepare_graph(Data(drawn(CHAIN)), filters)
    assert {each["id"] for each in values["nodes"]} == names


async def test_drawing_marks_matches_and_changes() -> None:
    changed = [*CHAIN[1:], *rows(node("a", title="Second"), node("e"))]
    values = await prepare_graph(Data(drawn(CHAIN, changed)), {"text": "sec"})
    matches = {each["id"]: (each["is_match"], each["change"]) for each in values["nodes"]}
    assert matches["a"] == (True, "changed")
    assert matches["e"] == (False, "new")
    assert matches["b"] == (False, "")
    assert [each["label"] for each in values["legend"]] == SETTINGS.labels
    assert (values["matches"], values["shown"]) == (1, 5)


async def test_expand_shows_one_relationship_more() -> None:
    data = Data(drawn(CHAIN))
    values = await prepare_graph(data, {"name": "a", "namespace": "context"})
    assert values["expand"] == {"name": "a", "namespace": "context", "hops": "2"}
    more = await prepare_graph(data, values["expand"])
    assert len(more["nodes"]) == len(values["nodes"]) + 1


async def test_node_has_neighbours_and_related_events() -> None:
    def event(subject: str, correlation: str | None) -> Event:
        return Event(
            id=f"{subject}{correlation}", source="s", type="t", time=1, subject=subject,
            correlation=correlation, data={"reason": "because"},
        )  # fmt: skip

    data = Data(drawn(CHAIN), [event("b", None), event("x", "b"), event("x", "y")])
    filters = {"namespace": "context", "name": "b"}
    row = (await prepare_node(data, filters))["row"]
    assert [(each["relationship"], each["node"]["id"]) for each in row["neighbours"]] == [
        ("HAS from", "a"), ("PRODUCED to", "c"),
    ]  # fmt: skip
    related = await prepare_node_events(data, filters)
    assert [line["sequence"] for line in related["lines"]] == [1, 0]
    assert related["lines"][0]["summary"] == "because"
    assert (await prepare_nodes(data, {}))["rows"][0]["node"]["id"] == "a"


def test_frame_does_not_change_with_one_node_more() -> None:
    assert frame([]) == frame([(0, 0)])
    assert frame([(0, 0), (500, 200)]) == frame([(0, 0), (510, 210)])


def test_graphs_have_unique_names() -> None:
    deployments = [
        DeploymentSettings(name=name, urls=["bolt://a"], graphs=[GraphSettings(name="g")])
        for name in "ab"
    ]
    with pytest.raises(ValueError, match="two graphs are named 'g'"):
        Neo4jSettings(deployments=deployments)
