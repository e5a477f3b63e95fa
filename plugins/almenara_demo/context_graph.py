"""The context graph of the simulated fleet: its stories, subtasks, decisions and roles."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from almenara_demo.fleet import Message

DELIBERATING: Final = "deliberating"
MAX_STORIES: Final = 8
"""Stories that are part of the context; the oldest leaves with everything that belongs to it."""
KEYS: Final = {
    "Story": "story_id", "Subtask": "subtask_id", "Decision": "decision_id", "Role": "role_id",
}  # fmt: skip
"""The property that identifies a node, by its label."""
RELATIONSHIPS: Final = {
    "HAS_SUBTASK": ("Story", "Subtask"),
    "ASSIGNED_TO": ("Subtask", "Role"),
    "PRODUCED": ("Subtask", "Decision"),
    "CONCERNS": ("Decision", "Story"),
}
"""The labels of the nodes that a type of relationships leads from and to."""

Key = tuple[str, str]
"""Label of a node, and its identity."""


class Deliberation(msgspec.Struct, frozen=True):
    """A deliberation that is running."""

    story: str
    task: str
    role: str


class ContextGraph:
    """The graph as the messages that were published describe it."""

    def __init__(self) -> None:
        self.nodes: dict[Key, dict[str, Any]] = {}
        """The properties of each node."""
        self.relationships: dict[tuple[str, Key, Key], None] = {}
        """Type, start and end."""
        self.changes = 0
        """The number of messages that changed the graph."""
        self._parts: dict[str, list[Key]] = {}
        """The nodes that belong to each story, oldest story first."""

    def accept(self, message: Message) -> None:
        """Change the graph as a message describes; messages of other kinds change nothing."""
        try:
            content = msgspec.json.decode(message.payload)
        except msgspec.DecodeError:
            return
        if not isinstance(content, dict):
            return
        inner = content.get("payload")
        fields = {**content, **inner} if isinstance(inner, dict) else content
        change = {
            "STORY_CREATED": self._create_story,
            "STORY_TRANSITIONED": self._move_story,
            "DELIBERATION_STARTED": self._add_subtask,
            "DELIBERATION_COMPLETED": self._add_decisions,
            None: self._end_subtask,
        }.get(content.get("event_type"))
        if change is not None:
            change(fields)

    def list_deliberations(self) -> list[Deliberation]:
        """The deliberations that are running, those of the oldest story first."""
        return [
            Deliberation(story, key[1], node["role"])
            for story, parts in self._parts.items()
            for key in parts
            if (node := self.nodes[key]).get("status") == DELIBERATING
        ]

    def _create_story(self, fields: Mapping[str, Any]) -> None:
        story = str(fields["story_id"])
        self._put("Story", story, story, title=fields["title"], status="DRAFT")
        while len(self._parts) > MAX_STORIES:
            removed = set(self._parts.pop(next(iter(self._parts))))
            self.nodes = {key: node for key, node in self.nodes.items() if key not in removed}
            self.relationships = {
                each: None
                for each in self.relationships
                if each[1] not in removed and each[2] not in removed
            }

    def _move_story(self, fields: Mapping[str, Any]) -> None:
        self._change("Story", fields["story_id"], status=fields["to_state"])

    def _add_subtask(self, fields: Mapping[str, Any]) -> None:
        story, task, role = str(fields["story_id"]), str(fields["task_id"]), str(fields["role"])
        if story not in self._parts:
            return
        name = task.rpartition(f"{story}-")[2]
        self._put("Subtask", task, story, title=name, role=role, status=DELIBERATING)
        self.nodes.setdefault(("Role", role), {"role_id": role, "name": role})
        self._relate("HAS_SUBTASK", story, task)
        self._relate("ASSIGNED_TO", task, role)

    def _add_decisions(self, fields: Mapping[str, Any]) -> None:
        story, task = str(fields["story_id"]), str(fields["task_id"])
        self._change("Subtask", task, status="working")
        if ("Subtask", task) not in self.nodes:
            return
        for decision in fields["decisions"]:
            key = str(decision["id"])
            self._put(
                "Decision", key, story, summary=decision["rationale"],
                decided_by=decision["decided_by"],
            )  # fmt: skip
            self._relate("PRODUCED", task, key)
            self._relate("CONCERNS", key, story)

    def _end_subtask(self, fields: Mapping[str, Any]) -> None:
        if "error" in fields and "task_id" in fields:
            self._change("Subtask", fields["task_id"], status="failed")
        elif "metrics" in fields:
            self._change("Subtask", fields["task_id"], status="done")

    def _put(self, label: str, key: str, story: str, **properties: Any) -> None:
        self.nodes[label, key] = {KEYS[label]: key, **properties}
        self._parts.setdefault(story, []).append((label, key))
        self.changes += 1

    def _change(self, label: str, key: Any, **properties: Any) -> None:
        node = self.nodes.get((label, str(key)))
        if node is not None:
            node.update(properties)
            self.changes += 1

    def _relate(self, kind: str, start: str, end: str) -> None:
        labels = RELATIONSHIPS[kind]
        self.relationships[kind, (labels[0], start), (labels[1], end)] = None

    def encode(self) -> bytes:
        """The graph as the file that a simulated deployment of Neo4j reads."""
        return msgspec.json.encode(
            {
                "nodes": [
                    {"id": name_node(key), "labels": [key[0]], "properties": properties}
                    for key, properties in self.nodes.items()
                ],
                "relationships": [
                    {
                        "id": f"{kind}:{name_node(start)}>{name_node(end)}", "type": kind,
                        "start": name_node(start), "end": name_node(end), "properties": {},
                    }
                    for kind, start, end in self.relationships
                ],
                "transactions": self.changes,
            }
        )  # fmt: skip


def name_node(key: Key) -> str:
    """The id of a node in the file."""
    return f"{key[0].lower()}:{key[1]}"


Statement = tuple[str, dict[str, Any]]
"""A query and its parameters."""


class GraphWriter:
    """Makes the queries that bring a database to the present state of a graph."""

    def __init__(self, graph: ContextGraph) -> None:
        self._graph = graph
        self._nodes: dict[Key, dict[str, Any]] = {}
        self._relationships: set[tuple[str, Key, Key]] = set()

    def statements(self) -> Iterator[Statement]:
        """Yield what differs since the last call."""
        nodes = {key: dict(properties) for key, properties in self._graph.nodes.items()}
        relationships = set(self._graph.relationships)
        for label, key in KEYS.items():
            removed = [
                name for each, name in self._nodes if each == label and (each, name) not in nodes
            ]
            if removed:
                yield f"MATCH (n:{label}) WHERE n.{key} IN $keys DETACH DELETE n", {"keys": removed}
            rows = [
                {"key": each[1], "properties": properties}
                for each, properties in nodes.items()
                if each[0] == label and self._nodes.get(each) != properties
            ]
            if rows:
                merge = f"MERGE (n:{label} {{{key}: row.key}}) SET n += row.properties"
                yield f"UNWIND $rows AS row {merge}", {"rows": rows}
        for kind, (first, last) in RELATIONSHIPS.items():
            new = [
                {"start": start[1], "end": end[1]}
                for each, start, end in relationships - self._relationships
                if each == kind
            ]
            if new:
                match = (
                    f"MATCH (a:{first} {{{KEYS[first]}: row.start}}),"
                    f" (b:{last} {{{KEYS[last]}: row.end}}) MERGE (a)-[:{kind}]->(b)"
                )
                yield f"UNWIND $rows AS row {match}", {"rows": new}
        self._nodes, self._relationships = nodes, relationships
