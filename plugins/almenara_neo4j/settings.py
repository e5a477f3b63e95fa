"""The settings of the Neo4j plugin."""

from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

import msgspec

from almenara.config import Secret

Positive = Annotated[float, msgspec.Meta(gt=0)]
TLS_SCHEMES: Final = frozenset(("bolt+s", "neo4j+s"))
SCHEMES: Final = frozenset(("bolt", "neo4j")) | TLS_SCHEMES
DEFAULT_PORT: Final = 7687


class Address(msgspec.Struct, frozen=True, order=True):
    """Host and port of a server."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class TlsSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How connections are secured."""

    ca: Path | None = None
    """File with the certificates of the authorities to trust, instead of the system's."""
    certificate: Path | None = None
    """File with the client certificate."""
    key: Path | None = None
    """File with the key of the client certificate."""
    verify: bool = True
    """Whether the certificate of a server must be valid and for its host. Without that, any server
    can respond in its place."""

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("tls: set certificate and key together")


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
    parameters: dict[str, str | int | float | bool] = {}
    """Parameters of the query."""
    changed_property: str = ""
    """Property with the time of the last change of a node, which should have an index. With it, the
    graph is read only when the newest value or the number of nodes or relationships has changed."""
    reread_every: Positive = 60.0
    """Seconds after which the graph is read even though nothing seems to have changed."""
    every: Positive = 2.0
    """Seconds between readings."""
    timeout: Positive = 5.0
    """Seconds for each query."""
    row_limit: Annotated[int, msgspec.Meta(ge=1, le=20_000)] = 5_000
    """Rows of the answer that are read at most."""
    node_limit: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 300
    """Nodes that are drawn at most; of labels, the newest."""
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
        for url in self.urls:
            parse_url(url)
        if len({urlsplit(url).scheme in TLS_SCHEMES for url in self.urls}) > 1:
            raise ValueError(f"urls of deployment {self.name}: use TLS for all of them or for none")
        if self.tls is not None and not self.uses_tls:
            raise ValueError(f"deployment {self.name} has the section tls; use bolt+s:// in urls")

    @property
    def uses_tls(self) -> bool:
        """Whether connections are secured."""
        return urlsplit(self.urls[0]).scheme in TLS_SCHEMES

    @property
    def addresses(self) -> list[Address]:
        """The addresses of the servers, each once."""
        return list(dict.fromkeys(parse_url(url) for url in self.urls))


def parse_url(url: str) -> Address:
    """The address of a URL. Raises `ValueError`."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        # What is wrong with it may be a password in place of the port.
        raise ValueError("a URL must be like bolt://host:7687; the one given is no URL") from None
    if parts.scheme.endswith("+ssc"):
        raise ValueError("for a certificate that is not verified, use bolt+s:// and tls.verify")
    if parts.scheme not in SCHEMES or not parts.hostname:
        raise ValueError(
            f"a URL must be like bolt://host:7687 or bolt+s://host:7687; the one given"
            f" {'has no host' if parts.scheme in SCHEMES else 'has another scheme'}"
        )
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL must not have a user or password; use user and password")
    if parts.path.strip("/") or parts.query:
        raise ValueError("a URL must not have a path or options; servers are observed whole")
    return Address(parts.hostname, DEFAULT_PORT if port is None else port)


class Neo4jSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The Neo4j servers to observe."""

    deployments: list[DeploymentSettings] = []
    """The deployments; without any, the plugin does nothing."""

    def __post_init__(self) -> None:
        names = [deployment.name for deployment in self.deployments]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two deployments are named {name!r}; names must be unique")
        graphs = [graph.name for graph in self.graphs]
        for name in graphs:
            if graphs.count(name) > 1:
                raise ValueError(f"two graphs are named {name!r}; names must be unique")

    @property
    def graphs(self) -> list[GraphSettings]:
        """The graphs of all deployments."""
        return [graph for deployment in self.deployments for graph in deployment.graphs]
