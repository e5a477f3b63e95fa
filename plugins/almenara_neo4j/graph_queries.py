"""The queries of a graph of labels: all of it, a part of it, a search and the area of a node.

Whatever a viewer enters is a parameter of a query, never part of its text.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from almenara_neo4j.settings import GraphSettings

SEED_SHARE: Final = 3
"""Of the nodes of a part, one of so many is chosen; the others are neighbours of these."""
MAX_WORDS: Final = 5

Seeds = Sequence[int]
"""The internal ids of the nodes that a part of a graph was chosen for."""


class Statement(msgspec.Struct, frozen=True):
    """A query and its parameters."""

    text: str
    parameters: Mapping[str, Any] = {}


def quote(name: str) -> str:
    """A name as Cypher has it."""
    return "`" + name.replace("`", "``") + "`"


def has_label(variable: str, labels: Sequence[str]) -> str:
    """The condition that a node has one of the labels."""
    return "(" + " OR ".join(f"{variable}:{quote(label)}" for label in labels) + ")"


def count_seeds(settings: GraphSettings) -> int:
    """How many nodes of a part are chosen; the others are their neighbours."""
    return max(settings.node_limit // SEED_SHARE, 1)


def make_whole_query(settings: GraphSettings) -> Statement:
    """The query of all nodes of the labels, up to the limit."""
    return Statement(
        f"MATCH (n) WHERE {has_label('n', settings.labels)}"
        f" WITH n {_order(settings)} LIMIT {settings.node_limit + 1}"
        " WITH collect(n) AS nodes UNWIND nodes AS n"
        " OPTIONAL MATCH (n)-[r]->(m) WHERE m IN nodes"
        " RETURN n, r"
    )


def make_part_query(settings: GraphSettings, seeds: Seeds | None = None) -> Statement:
    """The query of the newest nodes and their neighbours or, with `seeds`, of the nodes that were
    the newest and of their present neighbours. `seed` is the internal id of a chosen node."""
    if seeds is not None:
        return Statement(
            f"MATCH (n) WHERE id(n) IN $seeds AND {has_label('n', settings.labels)} WITH n"
            + _with_neighbours(settings),
            {"seeds": list(seeds)},
        )
    return Statement(
        f"MATCH (n) WHERE {has_label('n', settings.labels)}"
        f" WITH n {_order(settings)} LIMIT {count_seeds(settings)}" + _with_neighbours(settings)
    )


def make_search_query(settings: GraphSettings, words: Sequence[str]) -> Statement:
    """The query of the nodes that have all words, in lower case, in a label, caption or key, and of
    their neighbours."""
    return Statement(
        f"MATCH (n) WHERE {has_label('n', settings.labels)} AND all(word IN $words WHERE"
        " any(name IN $names WHERE toLower(toStringOrNull(n[name])) CONTAINS word)"
        " OR any(label IN labels(n) WHERE toLower(label) CONTAINS word))"
        f" WITH n {_order(settings)} LIMIT {count_seeds(settings)}" + _with_neighbours(settings),
        {"words": list(words[:MAX_WORDS]), "names": list_text_properties(settings)},
    )


def make_area_query(settings: GraphSettings, name: str, text: str, hops: int) -> Statement:
    """The query of a node, by its id or else its key or caption, and of what is up to `hops`
    relationships away."""
    number = name.rpartition(":")[2]
    if name:
        is_number = number.isascii() and number.isdigit() and len(number) < 19
        condition, parameters = "id(n) = $number", {"number": int(number) if is_number else -1}
    else:
        condition = "any(name IN $names WHERE toLower(toStringOrNull(n[name])) = $text)"
        parameters = {"text": text.lower(), "names": list_text_properties(settings)}  # type: ignore[dict-item]
    return Statement(
        f"MATCH (n) WHERE {has_label('n', settings.labels)} AND {condition} WITH n LIMIT 1"
        f" OPTIONAL MATCH (n)-[*1..{int(hops)}]-(m) WHERE {has_label('m', settings.labels)}"
        f" WITH DISTINCT n, m LIMIT {settings.node_limit}"
        " WITH [n] AS seeds, collect(m) AS others" + _related("seeds + others"),
        parameters,
    )


def list_text_properties(settings: GraphSettings) -> list[str]:
    """The properties that a search looks at: those of captions and keys that may be shown."""
    names = dict.fromkeys((*settings.caption_properties, *settings.key_properties))
    allowed = settings.properties
    return [name for name in names if allowed is None or name in allowed]


def make_summary_query(settings: GraphSettings) -> Statement:
    """The query of what changes with the graph: the number of nodes, and the newest change."""
    newest = f"max(n.{quote(settings.changed_property)})" if settings.changed_property else "null"
    nodes = has_label("n", settings.labels)
    return Statement(
        f"MATCH (n) WHERE {nodes} WITH count(n) AS nodes, {newest} AS changed"
        f" OPTIONAL MATCH (n)-[r]->(m) WHERE {nodes} AND {has_label('m', settings.labels)}"
        " RETURN nodes, changed, count(r) AS relationships"
    )


def _order(settings: GraphSettings) -> str:
    if not settings.changed_property:
        return "ORDER BY id(n) DESC"
    changed = f"n.{quote(settings.changed_property)}"
    # Null is the largest value, and a node without the property is not the newest.
    return f"ORDER BY {changed} IS NOT NULL DESC, {changed} DESC"


def _with_neighbours(settings: GraphSettings) -> str:
    """What follows `WITH n`: some neighbours of each node, so that a hub does not fill the part."""
    seeds = count_seeds(settings)
    others = settings.node_limit - seeds
    each = max(others // seeds, 1)
    return (
        " WITH collect(n) AS seeds UNWIND seeds AS n"
        f" OPTIONAL MATCH (n)--(m) WHERE {has_label('m', settings.labels)}"
        f" WITH seeds, n, collect(DISTINCT m)[..{each}] AS near"
        " WITH seeds, collect(near) AS areas"
        " WITH seeds, reduce(all = [], near IN areas |"
        " all + [m IN near WHERE NOT m IN all AND NOT m IN seeds])"
        f"[..{others}] AS others" + _related("seeds + others")
    )


def _related(nodes: str) -> str:
    """What follows `WITH … seeds, others`: the nodes and the relationships between them."""
    return (
        f" WITH seeds, {nodes} AS nodes UNWIND nodes AS n"
        " OPTIONAL MATCH (n)-[r]->(m) WHERE m IN nodes"
        " RETURN n, r, CASE WHEN n IN seeds THEN id(n) END AS seed"
    )
