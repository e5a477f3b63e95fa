"""The settings of the Neo4j plugin."""

import re
from pathlib import Path
from typing import Annotated, Final

import msgspec

from almenara.config import Secret
from almenara.sdk.servers import Address, TlsSettings, UrlForm, check_unique

Positive = Annotated[float, msgspec.Meta(gt=0)]
Value = str | int | float | bool
"""A parameter of a query."""
URLS: Final = UrlForm(
    plain=("bolt", "neo4j"), secured=("bolt+s", "neo4j+s"), port=7687, host="graph"
)
RESERVED: Final = frozenset(
    ("namespace", "name", "node", "hops", "label", "text", "at", "range", "from", "to", "sort")
)
"""Filters of the page of graphs, and of every page."""
INPUT: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,49}")


class GraphSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A graph that is drawn live: the nodes of some labels, or the answer to a query."""

    name: Annotated[str, msgspec.Meta(max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Name of the graph; names are unique."""
    database: str | None = None
    """Database to read; the default database of the user without one."""
    labels: Annotated[list[str], msgspec.Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: ["Story", "Decision", "Subtask", "Role"]
    )
    """Labels of the nodes that are drawn, in the order of the legend, with the relationships
    between them. The default is the context graph of a fleet of agents."""
    query: str = ""
    """Query whose nodes, relationships and paths are drawn instead. It runs in read access mode."""
    parameters: dict[str, Value] = {}
    """Parameters of the query."""
    inputs: list[str] = []
    """Parameters that viewers can enter on the page; until then they have the value in
    `parameters`, whose type they keep. They are passed to the query as parameters, never as text of
    it."""
    changed_property: str = ""
    """Property with the time of the last change of a node, which should have an index. With it, the
    graph is read only when the newest value or the number of nodes or relationships has changed."""
    change_data_capture: bool = True
    """Whether a graph is read only after a change where the database captures changes (Enterprise
    Edition 5.17 and later, `txLogEnrichment`) and the user may read them."""
    reread_every: Positive = 60.0
    """Seconds after which the graph is read even though nothing seems to have changed, and after
    which another part of a graph that is too large is chosen."""
    every: Positive = 2.0
    """Seconds between readings."""
    timeout: Positive = 5.0
    """Seconds for each query."""
    row_limit: Annotated[int, msgspec.Meta(ge=1, le=20_000)] = 5_000
    """Rows of the answer that are read at most."""
    node_limit: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 300
    """Nodes that are drawn at most. Of more, a third are the newest (the last changed with
    `changed_property`) and the others their neighbours; a search covers all."""
    relationship_limit: Annotated[int, msgspec.Meta(ge=1, le=4_000)] = 1_000
    """Relationships that are drawn at most."""
    caption_properties: list[str] = msgspec.field(
        default_factory=lambda: ["title", "name", "caption", "summary"]
    )
    """Properties of which the first that a node has is its caption."""
    key_properties: list[str] = msgspec.field(
        default_factory=lambda: [
            "story_id", "decision_id", "subtask_id", "task_id", "role_id", "id", "name",
        ]
    )  # fmt: skip
    """Properties of which the first that a node has identifies it, and is the subject of its
    events."""
    properties: list[str] | None = None
    """Properties that are shown; all by default."""
    events: bool = True
    """Whether nodes that are created, changed or removed have events."""

    def __post_init__(self) -> None:
        for name in self.inputs:
            if name not in self.parameters:
                raise ValueError(f"graph {self.name}: set a value for {name!r} in parameters")
            if name in RESERVED or not INPUT.fullmatch(name):
                raise ValueError(
                    f"graph {self.name}: {name!r} cannot be entered on a page; use another name of"
                    " letters, digits and _ for the parameter"
                )
        if self.inputs and not self.query:
            raise ValueError(f"graph {self.name}: inputs are for the parameters of a query")


class DeploymentSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One server, or the servers of one cluster."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=100, pattern=r"^[^/\s]+$")]
    """Name of the deployment; names are unique."""
    urls: Annotated[list[str], msgspec.Meta(min_length=1)]
    """Addresses of the servers, such as `bolt://graph:7687`, or `bolt+s://` for TLS. Each is
    observed over a connection of its own, so list every member of a cluster."""
    user: str = "neo4j"
    """User, where a password is set."""
    password: Secret | None = None
    """Password of the user; without one, authentication must be off on the servers."""
    tls: TlsSettings | None = None
    """Files and checks of TLS, for `bolt+s://` and `neo4j+s://`."""
    every: Positive = 5.0
    """Seconds between observations."""
    timeout: Positive = 3.0
    """Seconds for connecting, and for each query."""
    long_query_after: Positive = 10.0
    """Seconds after which a running query is long."""
    show_queries: bool = True
    """Whether the text of long queries is shown. Literals and parameters are never part of it."""
    count_entities: bool = True
    """Whether nodes and relationships of each database are counted, which Neo4j answers from its
    count store."""
    jmx: bool = True
    """Whether the start and the heap of each server are read with `dbms.queryJmx`, and the metrics
    of the Enterprise Edition: page cache, store size and checkpoints."""

    graphs: list[GraphSettings] = []
    """Graphs to draw, read from the first of the servers that answers."""
    simulated: Path | None = None
    """File with a simulated graph, as the demo writes it: no server is contacted, and pages say
    so."""

    def __post_init__(self) -> None:
        if any("+ssc" in url.partition(":")[0] for url in self.urls):
            raise ValueError("for a certificate that is not verified, use bolt+s:// and tls.verify")
        URLS.check(self.name, self.urls, self.tls)

    @property
    def uses_tls(self) -> bool:
        """Whether connections are secured."""
        return URLS.is_secured(self.urls[0])

    @property
    def addresses(self) -> list[Address]:
        """The addresses of the servers, each once."""
        return list(dict.fromkeys(URLS.parse(url) for url in self.urls))


class Neo4jSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The Neo4j servers to observe."""

    deployments: list[DeploymentSettings] = []
    """The deployments; without any, the plugin does nothing."""

    def __post_init__(self) -> None:
        check_unique("deployment", [deployment.name for deployment in self.deployments])
        check_unique("graph", [graph.name for graph in self.graphs])

    @property
    def graphs(self) -> list[GraphSettings]:
        """The graphs of all deployments."""
        return [graph for deployment in self.deployments for graph in deployment.graphs]
