"""Graphs that a viewer requests: the matches of a search, the area of a node, and the answer to a
query with the values that were entered. They are read from the database and not stored."""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from almenara.sdk import monotonic, now
from almenara.signals import Resource
from almenara_neo4j.errors import ServerError
from almenara_neo4j.graph import MAX_ENTITIES, Graph, choose_part, collect_graph
from almenara_neo4j.graph_mapping import map_node
from almenara_neo4j.graph_queries import (
    MAX_WORDS,
    Statement,
    make_area_query,
    make_search_query,
)
from almenara_neo4j.graph_reader import GraphReader
from almenara_neo4j.graph_state import GraphState
from almenara_neo4j.settings import DeploymentSettings, GraphSettings, Neo4jSettings, Value
from almenara_neo4j.values import Node

MAX_STORED: Final = 16
"""Answers of a graph that are stored, so that their nodes keep their positions."""
CONCURRENCY: Final = 2
"""Queries of one graph that run at once for viewers."""
LONGEST_VALUE: Final = 200


class Request(msgspec.Struct, frozen=True):
    """What a viewer has entered."""

    values: tuple[tuple[str, Value], ...] = ()
    """Parameters of the query that differ from the settings."""
    words: tuple[str, ...] = ()
    """Words to search for, in lower case."""
    name: str = ""
    """The id of a node."""
    node: str = ""
    """The key or caption of a node."""
    hops: int = 1


class Answer(msgspec.Struct):
    """The resources of a requested graph."""

    resources: Sequence[Resource] = ()
    is_partial: bool = False
    problem: str = ""
    """Why it cannot be read; empty if it was."""


class InvalidValueError(ValueError):
    """A value that a parameter cannot have; the text names the parameter."""


def read_values(
    settings: GraphSettings, filters: Mapping[str, str]
) -> tuple[tuple[str, Value], ...]:
    """The values of parameters in the address of a page that differ from those of the settings.

    Each has the type of the configured value. Raises `InvalidValueError`.
    """
    values = []
    for name in settings.inputs:
        if text := filters.get(name, ""):
            value = _convert(name, text[:LONGEST_VALUE], settings.parameters[name])
            if value != settings.parameters[name]:
                values.append((name, value))
    return tuple(values)


def _convert(name: str, text: str, default: Value) -> Value:
    if isinstance(default, str):
        return text
    kind, expected = {
        bool: (bool, "true or false"), int: (int, "a whole number"), float: (float, "a number"),
    }[type(default)]  # fmt: skip
    try:
        return msgspec.convert(text.strip().lower(), kind, strict=False)
    except msgspec.ValidationError:
        raise InvalidValueError(f"{name} must be {expected}") from None


class GraphLookup:
    """Reads what viewers request of one graph. An answer is stored for the interval of the graph,
    so that several panels and viewers cost one query."""

    def __init__(self, deployment: DeploymentSettings, settings: GraphSettings) -> None:
        self.settings, self._deployment = settings, deployment
        self._slots = asyncio.Semaphore(CONCURRENCY)
        self._locks: dict[Request, asyncio.Lock] = {}
        self._answers: OrderedDict[Request, tuple[float, GraphState, Answer]] = OrderedDict()

    async def read(self, request: Request) -> Answer:
        """The answer to a request. A server that does not answer is a problem of the answer."""
        lock = self._locks.setdefault(request, asyncio.Lock())
        try:
            async with lock:
                known = self._answers.get(request)
                if known is not None and monotonic() - known[0] < self.settings.every:
                    self._answers.move_to_end(request)
                    return known[2]
                state = known[1] if known is not None else GraphState(self.settings)
                async with self._slots:
                    answer = await self._read(request, state)
                self._answers[request] = monotonic(), state, answer
                self._answers.move_to_end(request)
                while len(self._answers) > MAX_STORED:
                    self._answers.popitem(last=False)
                return answer
        finally:
            if not lock.locked():
                self._locks.pop(request, None)

    async def _read(self, request: Request, state: GraphState) -> Answer:
        reader = GraphReader(self._deployment, self.settings)
        try:
            rows = await reader.run(self._make_statement(request))
        except ServerError as error:
            return Answer(problem=str(error))
        finally:
            await reader.close()
        return await asyncio.to_thread(self._accept, rows, request, state)

    def _make_statement(self, request: Request) -> Statement:
        settings = self.settings
        if settings.query:
            return Statement(settings.query, {**settings.parameters, **dict(request.values)})
        if request.name or request.node:
            return make_area_query(settings, request.name, request.node, request.hops)
        return make_search_query(settings, request.words)

    def _accept(
        self, rows: Sequence[Mapping[str, Any]], request: Request, state: GraphState
    ) -> Answer:
        state.update(self._select(rows, request), now())
        resources, _ = state.take(now())
        return Answer(resources, state.graph.is_partial)

    def _select(self, rows: Sequence[Mapping[str, Any]], request: Request) -> Graph:
        settings = self.settings
        if not settings.query or not (request.name or request.node or request.words):
            return collect_graph(rows, settings)
        # The answer has what is requested somewhere, beyond the limits of the drawing.
        whole = collect_graph(rows, settings, MAX_ENTITIES)

        def is_requested(node: Node) -> bool:
            if request.name:
                return node.id == request.name
            state = map_node(settings, node).state
            texts = [str(state["caption"]).lower(), str(state["key"]).lower()]
            if request.node:
                return request.node.lower() in texts
            content = " ".join((*texts, *map(str.lower, node.labels)))
            return all(word in content for word in request.words)

        hops = request.hops if request.name or request.node else 1
        return choose_part(whole, is_requested, hops, settings)


def make_request(
    settings: GraphSettings, filters: Mapping[str, str], hops: int, *, is_partial: bool
) -> Request | None:
    """The request for what the stored graph does not have; None where it has all of it.

    Raises `InvalidValueError`.
    """
    values = read_values(settings, filters)
    name, node = filters.get("name", ""), filters.get("node", "")
    words = tuple(filters.get("text", "").lower().split()[:MAX_WORDS])
    if not (values or (is_partial and (name or node or words))):
        return None
    if not is_partial and not values:
        return None
    return Request(
        values=values,
        words=() if name or node else words,
        name=name[:LONGEST_VALUE],
        node="" if name else node[:LONGEST_VALUE],
        hops=hops if name or node else 1,
    )


def make_lookups(settings: Neo4jSettings) -> dict[str, GraphLookup]:
    """A lookup for each graph, by its name; a simulated graph is stored whole."""
    return {
        graph.name: GraphLookup(deployment, graph)
        for deployment in settings.deployments
        if deployment.simulated is None
        for graph in deployment.graphs
    }
