"""The settings of the core as typed structs.

The name and the docstring of each field are its documentation: `almenara config document` and the
JSON Schema are generated from them. Times are in seconds and sizes in bytes.
"""

import typing
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_args

import msgspec

from almenara.config.alerting import AlertingSettings
from almenara.config.bus import BusSettings
from almenara.config.checkpoints import CheckpointSettings
from almenara.config.common import Count, GrantSettings, Port, Positive, Renamed
from almenara.config.intake import IntakeSettings, check_intake_names
from almenara.config.rules import IngestRule, RedactionSettings, RetentionRule, check_ages
from almenara.config.samples import SampleSettings
from almenara.config.secrets import Secret
from almenara.config.type_words import name_type


class TlsSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """TLS certificate and key, as PEM files. Changed files are reloaded."""

    cert: Path
    """Certificate, followed by its intermediate certificates."""
    key: Path
    """Private key of the certificate."""
    client_ca: Path | None = None
    """CA certificates for mutual TLS. With it, clients need a certificate that one of them has
    signed."""


class ServerSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The web server."""

    RENAMED: ClassVar[Renamed] = {
        "drain": "drain_period",
        "half_open": "max_idle_connections",
        "largest_address": "max_url_bytes",
        "largest_body": "max_body_bytes",
        "largest_headers": "max_header_bytes",
        "user_timeout": "tcp_user_timeout",
    }

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Port = 8080
    """Port to listen on; 0 selects a free port."""
    allowed_hosts: list[str] = []
    """Host names that requests may have in their `Host` header. Empty allows the address of
    `server.host` and localhost."""
    allowed_origins: list[str] = []
    """Further origins that may open a WebSocket, such as `https://name:port`."""
    trusted_proxies: list[str] = []
    """Addresses or networks (`10.0.0.0/8`) of reverse proxies. From them, `X-Forwarded-For`,
    `-Proto`, `-Host` and `-Port` set the client's address and the address in the browser. In each
    list the entry of the outermost trusted proxy counts. `Forwarded` is ignored, because a proxy
    that sets one of the two headers passes the other on unchanged."""
    url: str = ""
    """Address that users open, such as `https://almenara.example.com`, if a proxy changes host,
    port or scheme without reporting it. It is used in redirects of an OpenID Connect provider, and
    its host and origin are allowed."""
    tls: TlsSettings | None = None
    """Serve HTTPS directly, without a proxy."""
    max_websockets: Count = 1000
    """Maximum open WebSockets; further ones are refused with status 503."""
    websockets_per_address: Count = 200
    """Maximum open WebSockets of one client address, except the loopback addresses."""
    websockets_per_user: Count = 20
    """Maximum open WebSockets of one user or API token. Each session of the access token counts as
    a user."""
    requests_per_second: Positive = 50.0
    """Sustained request rate per client address and per user; requests beyond it get status 429.
    Loopback addresses are limited per user only."""
    request_burst: Count = 500
    """Requests above the rate that a client may make at once."""
    max_body_bytes: Count = 65_536
    """Maximum size of a request's body; a larger one gets status 413."""
    max_header_bytes: Count = 32_768
    """Maximum size of a request's headers, URL included; larger ones get status 431."""
    max_url_bytes: Count = 8_192
    """Maximum size of a request's URL; a longer one gets status 414."""
    body_timeout: Positive = 10.0
    """Seconds a client may take to send the body of a request."""
    max_idle_connections: Count = 1_000
    """Maximum connections without a running request: in the TLS handshake, before the headers are
    complete, or kept alive. Beyond it, the oldest are closed."""
    header_timeout: Positive = 5.0
    """Seconds a client may take for the TLS handshake, and to send the headers of a request."""
    keep_alive: Positive = 95.0
    """Seconds an idle connection stays open for another request. It must be longer than a reverse
    proxy keeps its connections to backends (ingress-nginx 60, Traefik 90); otherwise the proxy
    occasionally responds with 502."""
    tcp_user_timeout: Positive = 10.0
    """Seconds that sent data may stay unacknowledged before the connection is closed."""
    drain_period: Annotated[float, msgspec.Meta(ge=0)] = 4.0
    """Seconds over which WebSockets are closed at shutdown, so that browsers reconnect
    gradually."""
    shutdown_timeout: Count = 10
    """Seconds that running requests may take to complete at shutdown."""


class StorageSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The embedded bus and history: one SQLite database."""

    RENAMED: ClassVar[Renamed] = {
        "observation_age": "sample_retention_age",
        "reserve": "disk_reserve",
        "readers": "max_concurrent_queries",
        "batch_signals": "max_batch_signals",
        "queue_signals": "max_queued_signals",
        "retention_step": "retention_batch",
        "retry_interval": "write_retry_interval",
    }

    dir: Path = msgspec.field(default_factory=lambda: Path("var"))
    """Directory of the database; a relative path starts at the working directory."""
    retention_age: Positive = 30 * 86400.0
    """Seconds after which events are deleted."""
    sample_retention_age: Positive = 7200.0
    """Seconds after which samples and earlier states of resources are deleted from the bus; the
    sample store has settings of its own."""
    retention_size: Count = 20 * 1024**3
    """Maximum size of the database in bytes; beyond it, the oldest signals are deleted."""
    retention_batch: Count = 500
    """Signals deleted in one transaction; pending batches are written between two of them."""
    retention_interval: Positive = 10.0
    """Seconds between two runs of retention."""
    hot_events: Annotated[int, msgspec.Meta(ge=0)] = 200_000
    """Newest events that are stored as rows, for the fastest pages. Older ones are sealed in
    compressed blocks, which take a fifteenth of the space."""
    retention_rules: list[RetentionRule] = []
    """Events that are deleted sooner, so that noisy ones do not displace rare ones."""
    ingest_rules: list[IngestRule] = []
    """Events of which only a share is stored, chosen by their ids, or none."""
    deduplication_window: Count = 1_000_000
    """Minimum number of event ids remembered to recognize duplicates; the maximum is twice as
    many."""
    max_batch_signals: Count = 5_000
    """Maximum signals committed in one transaction."""
    max_queued_signals: Count = 20_000
    """Maximum signals waiting for the writer; beyond it, sources wait."""
    disk_reserve: Count = 16 * 1024**2
    """Size in bytes of a file that is deleted when the disk is full, so that retention can run."""
    write_retry_interval: Positive = 1.0
    """Seconds between write attempts while the disk is full or failing."""
    max_concurrent_queries: Count = 3
    """Maximum history queries that run at the same time."""
    query_timeout: Positive = 15.0
    """Seconds after which a history query is canceled, counted from its arrival."""
    max_waiting_queries: Count = 100
    """Maximum history queries of one user that wait for a reader; further ones are refused."""
    max_names: Count = 50_000
    """Maximum distinct types, sources, origins and namespaces that are indexed; events with further
    names are stored, and searching by those names is slow."""
    max_resources: Count = 200_000
    """Maximum resources of one source; beyond it, new ones are left out and reported."""

    def __post_init__(self) -> None:
        check_ages(self.retention_rules, self.retention_age)


Isolation = typing.Literal["thread", "process", "task"]


class SourceLimits(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Overrides for one source. A setting that is left out has the value of `supervisor`."""

    isolation: Isolation | None = None
    """Isolation of the source."""
    rate_limit: Positive | None = None
    """Sustained signals per second."""
    burst: Count | None = None
    """Signals above the rate that it may publish at once."""
    task_limit: Count | None = None
    """Maximum asyncio tasks."""
    memory_limit: Count | None = None
    """Maximum memory in bytes, with isolation `process`."""


class SupervisorSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How sources are isolated, limited and restarted."""

    RENAMED: ClassVar[Renamed] = {
        "healthy_after": "backoff_reset_after",
        "jitter": "backoff_jitter",
        "waiting_limit": "pending_limit",
    }

    backoff: Positive = 0.5
    """Seconds before the first restart of a failed source; doubled after each further failure."""
    backoff_limit: Positive = 30.0
    """Maximum seconds between two restarts."""
    backoff_jitter: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.3
    """Random share, from 0 to 1, by which each wait varies."""
    backoff_reset_after: Positive = 30.0
    """Seconds a source must run before its backoff starts over."""
    stop_timeout: Positive = 5.0
    """Seconds a source may take to stop; after that it is abandoned."""
    isolation: Isolation = "thread"
    """Where sources run. `thread`: in a thread with an event loop of its own. `process`: in a child
    process, which contains crashes of C extensions. `task`: on the event loop of the server, which
    is fastest and contains exceptions only."""
    rate_limit: Positive = 10_000.0
    """Sustained signals per second of one source; beyond it, the source waits."""
    burst: Count = 50_000
    """Signals above the rate that a source may publish at once."""
    pending_limit: Count = 50_000
    """Maximum signals of one source that wait to be published; beyond it, the source is
    restarted."""
    blocked_after: Positive = 2.0
    """Seconds an event loop may be blocked before the source that blocks it is reported."""
    interrupt_after: Positive = 20.0
    """Seconds after which a source that blocks its own event loop is interrupted and restarted."""
    task_limit: Count = 1_000
    """Maximum asyncio tasks of a source; beyond it, the source is reported and restarted."""
    memory_limit: Count = 1024**3
    """Maximum memory in bytes of a source with isolation `process`; beyond it, the source is
    restarted."""
    sources: dict[str, SourceLimits] = {}
    """Overrides for single sources, by the name of the source."""


class PanelSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Live panels, and the limits of each browser."""

    ticks_per_second: Positive = 10.0
    """Maximum frames per second of a panel."""
    visible_events: Count = 100
    """Rows of a live event list."""
    outbox_bytes: Count = 65_536
    """Maximum bytes queued for one browser; beyond it, the browser skips frames and then gets a
    snapshot."""
    channels_per_user: Count = 128
    """Maximum live panels of one user with different filters, over all connections."""
    send_timeout: Positive = 2.0
    """Seconds a browser may take to receive what is queued for it; a slower one is
    disconnected."""


class PlacedPanel(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A panel on a dashboard."""

    panel: str
    """Name of the panel with its plugin, such as `http.checks`; `almenara plugins list` shows
    them. The panel `chart` draws any metric, and a dashboard can have it several times."""
    title: Annotated[str, msgspec.Meta(max_length=120)] = ""
    """Title on the page. The default is the panel's own title."""
    width: Annotated[int, msgspec.Meta(ge=1, le=12)] | None = None
    """Width in columns of a grid of twelve. The default is the panel's own width."""
    height: Annotated[int, msgspec.Meta(ge=1, le=12)] | None = None
    """Height in rows of the grid; longer content scrolls. The default is the panel's own height."""
    filter: dict[str, str] = {}
    """Filters of the panel, named as in its URL: `severity: ERROR`."""


class DashboardSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A dashboard: a page of panels."""

    name: Annotated[str, msgspec.Meta(pattern="^[a-z0-9][a-z0-9_-]*$")]
    """Name in the URL `/dashboards/<name>`."""
    title: str = ""
    """Title in the navigation."""
    panels: list[PlacedPanel | str]
    """Panels in their order: a name, or `panel:` with `width:`, `height:` and `filter:`."""


RoleName = typing.Literal["viewer", "operator", "admin"]


class RoleSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Assignment of a role to users and groups. All assignments that match a user add up."""

    RENAMED: ClassVar[Renamed] = {"sees": "grants"}

    role: RoleName
    """`viewer` reads; `operator` also reads the sign-in log, acknowledges and silences alerts;
    `admin` also creates API tokens and ends sessions of other users."""
    groups: list[str] = []
    """Groups that have the role; `*` stands for every user who is signed in."""
    users: list[str] = []
    """Users who have the role."""
    grants: list[GrantSettings] = []
    """Signals they may read: those that match any of these. Empty grants all signals."""


class OidcSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Sign-in with an OpenID Connect provider: authorization code flow with PKCE."""

    RENAMED: ClassVar[Renamed] = {"refresh": "refresh_interval"}

    issuer: str
    """URL of the provider, such as `https://accounts.example.org`. Its metadata is discovered from
    there."""
    client_id: str
    """Client id of Almenara at the provider. Its redirect URI is `/sign-in/callback`, and its
    back-channel logout URI is `/sign-in/back-channel-logout`."""
    client_secret: Secret | None = None
    """Client secret; leave it out for a public client."""
    scopes: list[str] = msgspec.field(default_factory=lambda: ["openid", "profile", "email"])
    """Requested scopes. Add `offline_access` if the provider issues refresh tokens only with it."""
    groups_claim: str = "groups"
    """Claim with the user's groups."""
    name_claim: str = "preferred_username"
    """Claim with the user's name. Without it, the verified e-mail address or the subject is used.
    If `auth.roles` names users, choose a claim that users cannot change themselves."""
    ca: Path | None = None
    """CA certificates of the provider, if it has no public certificate."""
    refresh_interval: Positive = 300.0
    """Seconds between two checks, with the refresh token, that the user is still allowed and of the
    user's groups. Without a refresh token the session ends with the ID token."""


class ProxySettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Identity headers of an authenticating proxy, such as oauth2-proxy, Traefik or nginx."""

    RENAMED: ClassVar[Renamed] = {"recheck": "reauthentication_interval"}

    user_header: str = "X-Forwarded-User"
    """Header with the user's name."""
    groups_header: str = "X-Forwarded-Groups"
    """Header with the user's groups."""
    groups_separator: Annotated[str, msgspec.Meta(min_length=1, max_length=4)] = ","
    """Text between two groups in `groups_header`: `|` for authentik."""
    sign_out_url: str = ""
    """Address of the proxy that signs users out, such as `/oauth2/sign_out`. Without it there is no
    Sign out button, because the proxy would sign the user in again."""
    secret: Secret | None = None
    """Shared secret that the proxy sends in `secret_header`, so that no other client can set the
    identity headers. It is optional if `server.tls.client_ca` admits only the proxy."""
    secret_header: str = "X-Almenara-Proxy-Secret"  # noqa: S105
    """Header with the shared secret."""
    reauthentication_interval: Positive = 300.0
    """Seconds after which an open WebSocket must reconnect through the proxy."""


class KubernetesAccessSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The Kubernetes API server that reviews tokens and access."""

    RENAMED: ClassVar[Renamed] = {
        "prefix": "namespace_prefix",
        "recheck": "token_review_interval",
        "rights": "access_review_interval",
    }

    server: str = ""
    """URL of the API server; empty for the cluster that Almenara runs in."""
    ca: Path | None = None
    """CA certificates of the API server. In a cluster the default is the pod's."""
    token: Secret | None = None
    """Token of Almenara with the permissions of `system:auth-delegator`. In a cluster the default
    is the token of its ServiceAccount."""
    client_cert: Path | None = None
    """Client certificate, in place of a token."""
    client_key: Path | None = None
    """Private key of the client certificate."""
    audiences: list[str] = []
    """Audiences that tokens must have; empty for those of the API server."""
    token_review_interval: Positive = 30.0
    """Seconds for which the review of a token is cached."""
    access_review_interval: Positive = 30.0
    """Seconds for which the review of a user's access is cached."""
    sources: list[str] = msgspec.field(default_factory=lambda: ["kubernetes"])
    """Sources whose namespaces are subject to `authorization: kubernetes`."""
    namespace_prefix: str = ""
    """Prefix of this cluster's namespaces if several clusters are observed, such as `east/`."""


AuthMode = typing.Literal[
    "auto", "token", "oidc", "proxy", "kubernetes", "none", "insecure-none"
]  # fmt: skip


class AuthSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Authentication and authorization."""

    RENAMED: ClassVar[Renamed] = {
        "attempts": "max_sign_in_attempts",
        "token_lifetime": "max_token_lifetime",  # nosec B105 # names of settings
        "open_metrics": "public_metrics",
        "plain_http": "allow_plain_http",
        "session_idle": "session_idle_timeout",
        "session_rotation": "session_rotation_interval",
    }

    mode: AuthMode = "auto"
    """How users sign in: with an access `token`; with an `oidc` provider; through an authenticating
    `proxy`; with a `kubernetes` token; or, if only this machine can connect, not at all: `none`.
    `auto` means `none` in that case and `token` otherwise. `insecure-none` gives everyone who can
    connect access to all data."""
    authorization: typing.Literal["roles", "kubernetes"] = "roles"
    """`kubernetes` limits users to the namespaces of the cluster in which they may list pods."""
    token: Secret | None = None
    """Access token. Without it, `almenara access rotate` creates one."""
    roles: list[RoleSettings] = []
    """Roles of users and groups. The access token has the role `admin`."""
    oidc: OidcSettings | None = None
    """Settings of the mode `oidc`."""
    proxy: ProxySettings = msgspec.field(default_factory=ProxySettings)
    """Settings of the mode `proxy`."""
    kubernetes: KubernetesAccessSettings = msgspec.field(default_factory=KubernetesAccessSettings)
    """Settings of the mode `kubernetes` and of `authorization: kubernetes`."""
    session_idle_timeout: Positive = 3600.0
    """Seconds after which a session without an open page ends."""
    session_lifetime: Positive = 12 * 3600.0
    """Maximum seconds a session lasts."""
    session_rotation_interval: Positive = 600.0
    """Seconds after which the cookie of a session is replaced."""
    max_token_lifetime: Positive = 90 * 86400.0
    """Maximum seconds an API token is valid."""
    max_sign_in_attempts: Count = 5
    """Failed sign-ins of one client address before it must wait; the wait grows with each further
    one."""
    allow_plain_http: bool = False
    """Allow sign-in over HTTP from other machines. Credentials are then readable on the network."""
    public_metrics: bool = False
    """Serve `/metrics` without authentication."""


class LogSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Logging to standard error."""

    level: typing.Literal["debug", "info", "warning", "error"] = "info"
    """Minimum level."""
    format: typing.Literal["auto", "console", "json"] = "auto"
    """`auto` is `console` on a terminal and `json` otherwise."""


class Settings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The whole configuration."""

    server: ServerSettings = msgspec.field(default_factory=ServerSettings)
    bus: BusSettings = msgspec.field(default_factory=BusSettings)
    storage: StorageSettings = msgspec.field(default_factory=StorageSettings)
    samples: SampleSettings = msgspec.field(default_factory=SampleSettings)
    checkpoints: CheckpointSettings = msgspec.field(default_factory=CheckpointSettings)
    supervisor: SupervisorSettings = msgspec.field(default_factory=SupervisorSettings)
    panels: PanelSettings = msgspec.field(default_factory=PanelSettings)
    auth: AuthSettings = msgspec.field(default_factory=AuthSettings)
    alerting: AlertingSettings = msgspec.field(default_factory=AlertingSettings)
    redaction: RedactionSettings = msgspec.field(default_factory=RedactionSettings)
    log: LogSettings = msgspec.field(default_factory=LogSettings)
    intake: dict[str, IntakeSettings] = {}
    """Intakes by name: senders that push signals over HTTP. The signals have the origin
    `intake/<name>`. Without any, nothing can be pushed."""
    dashboards: list[DashboardSettings] = []
    """Dashboards. One named `overview` replaces the start page, and one named like a plugin
    replaces that plugin's page. Without any, each plugin with panels has a page."""
    plugins_dir: Path | None = None
    """Directory of plugins that are not installed: each a `.py` file, or a directory with an
    `__init__.py`."""
    plugins: dict[str, Any] = {}
    """Settings of each plugin, by its name; and `disabled`, the list of plugins not to load."""

    def __post_init__(self) -> None:
        check_intake_names(self.intake)
        disabled = self.plugins.get("disabled", [])
        if not isinstance(disabled, list) or not all(isinstance(name, str) for name in disabled):
            raise ValueError("plugins.disabled must be a list of plugin names")
        for name, tree in self.plugins.items():
            if name != "disabled" and tree is not None and not isinstance(tree, dict):
                raise ValueError(
                    f"plugins.{name} must contain `name: value` lines, found {name_type(tree)}"
                )

    @property
    def max_intake_bytes(self) -> int:
        """The largest body that any intake accepts; 0 without an intake."""
        return max((intake.max_body_bytes for intake in self.intake.values()), default=0)

    @property
    def disabled_plugins(self) -> list[str]:
        """The names of the plugins that are not loaded."""
        return list(self.plugins.get("disabled", []))

    @property
    def plugin_settings(self) -> dict[str, dict[str, Any]]:
        """The settings of each plugin as they are in the file, not yet decoded."""
        return {name: tree or {} for name, tree in self.plugins.items() if name != "disabled"}


def nested_structs(kind: Any) -> list[type[msgspec.Struct]]:
    """Return the structs in a type, such as `A` and `B` in `list[A | B]`."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return [kind]
    return [struct for part in get_args(kind) for struct in nested_structs(part)]
