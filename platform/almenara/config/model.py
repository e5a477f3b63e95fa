"""One typed configuration: a YAML file, overridden by `ALMENARA_*` environment variables.

`ALMENARA_SERVER__PORT=9000` sets `server.port`; two underscores separate the levels.
"""

import contextlib
import difflib
import os
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Self, get_args, get_origin
from urllib.parse import SplitResult, urlsplit

import msgspec
import yaml

from almenara.errors import ConfigError

ENVIRONMENT_PREFIX: Final = "ALMENARA_"

Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
CREDENTIALS: Final = re.compile(r"//[^/@\s]+@")
"""The user and the password in an address."""


class Secret:
    """A value that must not be seen: a password, a token, a key.

    In the configuration it is `{env: NAME}` or `{file: PATH}`, or the value itself where it comes
    from the environment anyway. Printing, formatting, comparing or encoding one never shows it;
    only `reveal` does. A file is read again each time, so that a rotated secret is the new one.
    """

    __slots__ = ("_place", "_reveal")

    def __init__(self, reveal: Callable[[], str], place: str = "set") -> None:
        self._reveal, self._place = reveal, place

    @classmethod
    def of(cls, value: str) -> Self:
        """A secret that is known already."""
        return cls(lambda: value)

    @classmethod
    def read(cls, written: Any) -> Self:
        """What the configuration says as a secret. Raises `ValueError` that does not show it."""
        if isinstance(written, dict) and len(written) == 1:
            ((kind, where),) = written.items()
            if kind == "env" and isinstance(where, str):
                value = os.environ.get(where, "").strip()
                if not value:
                    raise ValueError(f"the environment variable {where} is not set")
                _check_line(value, f"the environment variable {where}")
                return cls(lambda: value, f"from {where}")
            if kind == "file" and isinstance(where, str):
                path = Path(where).expanduser()
                _read_line(path)
                return cls(lambda: _revealed(path), f"from {path}")
        if isinstance(written, str | int | float) and not isinstance(written, bool):
            value = str(written).strip()
            _check_line(value, "it")
            return cls.of(value)
        raise ValueError("a secret is `{env: NAME}`, `{file: PATH}` or a text")

    def reveal(self) -> str:
        """The value. Raises `OSError`, which says why, where its file cannot be read any more."""
        return self._reveal()

    def __repr__(self) -> str:
        return f"Secret({self._place})"

    def __bool__(self) -> bool:
        return True


def _check_line(value: str, what: str) -> None:
    # A header or a password with a line end in it is refused by libraries that show it then.
    if CONTROL.search(value):
        raise ValueError(
            f"{what} holds a line end or another control character; a secret is one line"
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} is not text") from None


def _read_line(path: Path) -> str:
    """The line in a secret's file. Raises `ValueError` that does not show it."""
    try:
        value = path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise ValueError(f"the file {path} is not text") from None
    except OSError as error:
        raise ValueError(f"the file {path} cannot be read: {error.strerror}") from None
    if not value:
        raise ValueError(f"the file {path} is empty")
    _check_line(value, f"the file {path}")
    return value


def _revealed(path: Path) -> str:
    try:
        return _read_line(path)
    except ValueError as error:
        raise OSError(str(error)) from None


def web_address(url: str, whose: str, instead: str) -> SplitResult:
    """The parts of an `http://` or `https://` address. `whose` names what it is of, `instead` where
    a user or password belongs, which must not be in it. Raises `ValueError`."""
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        sound = False
    if not sound:
        raise ValueError(
            f"url of {whose} must begin with http:// or https:// and name a host, and a port from 1"
            " to 65535 where it names one"
        )
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"url of {whose} must not hold a user or a password; {instead}")
    return parts


def masked(text: str, secrets: Iterable[Secret | None]) -> str:
    """The text with `***` in place of each secret, also where Python wrote it between quotes."""
    for secret in secrets:
        if secret is None:
            continue
        with contextlib.suppress(OSError):
            value = secret.reveal()
            for written in (value, repr(value)[1:-1], repr(value.encode())[2:-1]):
                if written:
                    text = text.replace(written, "***")
    return text


class TlsSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Certificate and key, as PEM files; they are read again when they change."""

    cert: Path
    """The certificate, with those between it and the root."""
    key: Path
    """Its private key."""
    client_ca: Path | None = None
    """Certificates that sign those of clients; with it, nobody connects without one."""


class ServerSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The web server."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Port = 8080
    """Port to listen on; 0 lets the system choose."""
    allowed_hosts: list[str] = []
    """Host names that requests may ask for; empty allows the address listened on and localhost."""
    allowed_origins: list[str] = []
    """Origins besides our own, as `https://name:port`, that may open a WebSocket."""
    trusted_proxies: list[str] = []
    """Addresses or networks, `10.0.0.0/8`, of proxies whose `X-Forwarded-For` and
    `X-Forwarded-Proto` tell the address of a browser and whether it came over https. `Forwarded` is
    not read: a proxy that writes one of the two passes the other on as it came."""
    tls: TlsSettings | None = None
    """Serve https without a proxy in front."""
    max_websockets: Count = 1000
    """WebSockets open at once; more are refused with 503 before they are accepted."""
    websockets_per_address: Count = 200
    """Those of one address; this machine's own are not counted."""
    websockets_per_user: Count = 20
    """Those of one user or, where a token is shared, of one session."""
    requests_per_second: Positive = 50.0
    """Requests a second that one address, and one user, may make in the long run; beyond them 429.
    This machine's own are not counted by address."""
    request_burst: Count = 500
    """Requests they may make at once."""
    largest_body: Count = 65_536
    """Bytes of a request's body at most; beyond them 413."""
    largest_headers: Count = 32_768
    """Bytes of a request's headers at most, its address included; beyond them 431."""
    largest_address: Count = 8_192
    """Bytes of a request's address at most; beyond them 414."""
    body_timeout: Positive = 10.0
    """Seconds a connection may take to send the body of a request."""
    half_open: Count = 1_000
    """Connections in their TLS handshake, yet to send headers, or kept for another request, at
    most; the oldest go first."""
    header_timeout: Positive = 5.0
    """Seconds a connection may take for its TLS handshake, and to send the headers of a request."""
    keep_alive: Positive = 30.0
    """Seconds a connection is kept for another request; longer than a proxy in front keeps its
    own, or the proxy answers 502 now and then."""
    user_timeout: Positive = 10.0
    """Seconds sent bytes may stay unacknowledged before the connection is dropped."""
    drain: Annotated[float, msgspec.Meta(ge=0)] = 4.0
    """Seconds over which WebSockets are closed when the server stops."""
    shutdown_timeout: Count = 10
    """Seconds after which a request still running is abandoned when the server stops."""


class StorageSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The embedded bus and history: one SQLite database."""

    dir: Path = msgspec.field(default_factory=lambda: Path("var"))
    """Folder of the database, relative to the working directory."""
    retention_age: Positive = 30 * 86400.0
    """Seconds that events are kept."""
    observation_age: Positive = 86400.0
    """Seconds that resources and samples are kept."""
    retention_size: Count = 20 * 1024**3
    """Bytes the database may hold; the oldest signals go first."""
    retention_step: Count = 500
    """Signals removed in one step, between which waiting batches are written."""
    retention_interval: Positive = 10.0
    """Seconds between looks at what retention should remove."""
    deduplication_window: Count = 1_000_000
    """Event ids remembered at least; twice as many at most."""
    batch_signals: Count = 5_000
    """Signals committed together at most."""
    queue_signals: Count = 20_000
    """Signals that may wait for the writer before sources are held back."""
    reserve: Count = 16 * 1024**2
    """Bytes kept in a file that is given up when the disk is full, so that retention can work."""
    retry_interval: Positive = 1.0
    """Seconds between attempts to write while the disk is full or failing."""
    readers: Count = 3
    """History queries that may run at once."""
    query_timeout: Positive = 15.0
    """Seconds a query of the history may take."""


Isolation = typing.Literal["thread", "process", "task"]


class SourceLimits(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What the supervisor does differently for one source; what is left out stays as for all."""

    isolation: Isolation | None = None
    """`thread`, `process` or `task`."""
    rate_limit: Positive | None = None
    """Signals a second in the long run."""
    burst: Count | None = None
    """Signals at once, above the rate."""
    task_limit: Count | None = None
    """Tasks at once."""
    memory_limit: Count | None = None
    """Bytes, in a process of its own."""


class SupervisorSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How sources are kept running, and apart."""

    backoff: Positive = 0.5
    """Seconds before the first restart of a failed source; doubled on each further failure."""
    backoff_limit: Positive = 30.0
    """Seconds between restarts at most."""
    jitter: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.3
    """Share by which each wait varies at random."""
    healthy_after: Positive = 30.0
    """Seconds a source must run before its backoff starts over."""
    stop_timeout: Positive = 5.0
    """Seconds a source may take to stop; after them it is left behind."""
    isolation: Isolation = "thread"
    """What keeps sources apart: a `thread` with an event loop of its own; a `process` of its own,
    which a crash of a C extension cannot leave; or `task`, on the event loop of the server, which
    is quickest and protects from exceptions only."""
    rate_limit: Positive = 10_000.0
    """Signals a second that a source may publish in the long run; beyond them it is held back."""
    burst: Count = 50_000
    """Signals that a source may publish at once, above its rate."""
    waiting_limit: Count = 50_000
    """Signals of one source that may wait to be published; one that goes on is restarted."""
    blocked_after: Positive = 2.0
    """Seconds an event loop may stand still before the source that holds it is named."""
    interrupt_after: Positive = 20.0
    """Seconds after which a source that blocks its own event loop is interrupted and restarted."""
    task_limit: Count = 1_000
    """Tasks a source may have at once; one that leaks them is named, and restarted."""
    memory_limit: Count = 1024**3
    """Bytes a source in a process of its own may hold; beyond them it is restarted."""
    sources: dict[str, SourceLimits] = {}
    """What differs for single sources, by the name of the source."""


class PanelSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Live panels and what a browser may cost."""

    ticks_per_second: Positive = 10.0
    """Frames a channel renders at most each second."""
    visible_events: Count = 100
    """Rows of a live event list."""
    outbox_bytes: Count = 65_536
    """Bytes that may wait for one browser; beyond them it skips frames and gets a snapshot."""
    send_timeout: Positive = 2.0
    """Seconds within which a browser must take all that waits for it; else it is dropped."""


class PlacedPanel(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A panel on a page."""

    panel: str
    """Name of the panel, as `almenara plugins list` gives it: `http.checks`."""
    width: Annotated[int, msgspec.Meta(ge=1, le=12)] | None = None
    """Columns of the twelve of the grid; without it the panel's own width."""
    height: Annotated[int, msgspec.Meta(ge=1, le=12)] | None = None
    """Rows of the grid, after which it scrolls; without it the panel's own height."""
    filter: dict[str, str] = {}
    """Filters of the panel, as its address has them: `severity: ERROR`."""


class DashboardSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A page of panels."""

    name: Annotated[str, msgspec.Meta(pattern="^[a-z0-9][a-z0-9_-]*$")]
    """Its address is `/dashboards/` and this."""
    title: str = ""
    """What the navigation calls it."""
    panels: list[PlacedPanel | str]
    """The panels in their order: a name, or `panel:` with `width:`, `height:` and `filter:`."""


class GrantSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Signals that may be seen: those that fit every part that is given."""

    sources: list[str] = []
    """Names of sources, `nats`, or patterns of origins, `nats/PLANNING_*`."""
    types: list[str] = []
    """Patterns of event types, `planning.>`. It shows events alone."""
    namespaces: list[str] = []
    """Names or patterns of Kubernetes namespaces; nothing that is in none."""
    labels: dict[str, str] = {}
    """Labels that what a signal is about must all have."""


RoleName = typing.Literal["viewer", "operator", "admin"]


class RoleSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Who has a role, and what they see in it. Several that fit somebody add up."""

    role: RoleName
    """`viewer` looks, `operator` sees the log of who signed in besides, `admin` gives out API
    tokens and ends sessions of others."""
    groups: list[str] = []
    """Groups that have it; `*` is everybody who is signed in."""
    users: list[str] = []
    """Names that have it."""
    grants: list[GrantSettings] = []
    """What they see: what any of these shows; everything where none is given."""


class OidcSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Sign-in with an OpenID Connect provider: authorisation code with PKCE."""

    issuer: str
    """The provider, as `https://accounts.example.org`; the rest is discovered there."""
    client_id: str
    """What Almenara is called there. Its redirect address is `/sign-in/callback`, and its
    back-channel logout address `/sign-in/back-channel-logout`."""
    client_secret: Secret | None = None
    """Its secret; a public client has none."""
    scopes: list[str] = msgspec.field(default_factory=lambda: ["openid", "profile", "email"])
    """What is asked for; `offline_access` where the provider gives refresh tokens for it alone."""
    groups_claim: str = "groups"
    """The claim that lists somebody's groups."""
    name_claim: str = "preferred_username"
    """The claim that names somebody; without it the e-mail address that the provider has verified,
    or the subject. Where `auth.roles` names users, it must be one that they cannot choose."""
    ca: Path | None = None
    """Certificates that sign the provider's, where they are not public."""
    refresh: Positive = 300.0
    """Seconds between looks at whether somebody may still be here and in which groups, with the
    refresh token; without one the session ends with the id token."""


class ProxySettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Identity headers of a proxy in front: oauth2-proxy, Traefik, nginx."""

    user_header: str = "X-Forwarded-User"
    """The header that names who it is."""
    groups_header: str = "X-Forwarded-Groups"
    """The header that lists the groups, with commas between."""
    secret: Secret | None = None
    """What the proxy sends in `secret_header`, so that nobody else can stand in for it. It may be
    left out where `server.tls.client_ca` lets nobody but the proxy connect."""
    secret_header: str = "X-Almenara-Proxy-Secret"  # noqa: S105
    """The header with the secret."""
    recheck: Positive = 300.0
    """Seconds after which a WebSocket has to come in through the proxy again."""


class KubernetesAccessSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The Kubernetes API server that knows tokens and rights."""

    server: str = ""
    """Its address; empty for the cluster that Almenara runs in."""
    ca: Path | None = None
    """Certificates that sign the server's; in a cluster those of the pod."""
    token: Secret | None = None
    """Almenara's own token, with the rights of `system:auth-delegator`; in a cluster the pod's."""
    client_cert: Path | None = None
    """Its own certificate, instead of a token."""
    client_key: Path | None = None
    """The key of that certificate."""
    audiences: list[str] = []
    """Audiences that tokens must be for; empty for the API server's own."""
    recheck: Positive = 30.0
    """Seconds for which an answer about a token is believed."""
    rights: Positive = 30.0
    """Seconds for which an answer about somebody's rights is believed."""
    sources: list[str] = msgspec.field(default_factory=lambda: ["kubernetes"])
    """With `authorization: kubernetes`, the sources whose namespaces are asked about."""
    prefix: str = ""
    """What stands before the namespaces of this cluster where several are watched: `east/`."""


AuthMode = typing.Literal[
    "auto", "token", "oidc", "proxy", "kubernetes", "none", "insecure-none"
]  # fmt: skip


class AuthSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Who may look."""

    mode: AuthMode = "auto"
    """How people sign in: with an access `token`; with an `oidc` provider; as a `proxy` in front
    says; with a `kubernetes` token; or, where only this machine can connect, not at all: `none`.
    `auto` is `none` there and `token` elsewhere. `insecure-none` lets everybody look who can
    connect."""
    authorization: typing.Literal["roles", "kubernetes"] = "roles"
    """`kubernetes` shows of the cluster only the namespaces that somebody may list."""
    token: Secret | None = None
    """The access token, where it comes from elsewhere; else `almenara access rotate` makes one."""
    roles: list[RoleSettings] = []
    """Who has which role. The access token has the role `admin`."""
    oidc: OidcSettings | None = None
    """For the mode `oidc`."""
    proxy: ProxySettings = msgspec.field(default_factory=ProxySettings)
    """For the mode `proxy`."""
    kubernetes: KubernetesAccessSettings = msgspec.field(default_factory=KubernetesAccessSettings)
    """For the mode `kubernetes` and for `authorization: kubernetes`."""
    session_idle: Positive = 3600.0
    """Seconds after which a session ends that no page is open of."""
    session_lifetime: Positive = 12 * 3600.0
    """Seconds after which a session ends in any case."""
    session_rotation: Positive = 600.0
    """Seconds after which a session's cookie is exchanged for a new one."""
    token_lifetime: Positive = 90 * 86400.0
    """Seconds that an API token may live at most."""
    attempts: Count = 5
    """Wrong sign-ins of one address before it has to wait, longer each time."""
    plain_http: bool = False
    """Whether to sign in over http from other machines, where everybody on the way can read it."""
    open_metrics: bool = False
    """Whether `/metrics` can be read without signing in."""


MASKED: Final = ("password", "passwd", "passphrase", "secret", "token", "authorization", "cookie",
                 "api_key", "apikey", "private_key", "credentials")  # fmt: skip


class RedactionSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What is masked before a signal is stored."""

    keys: list[str] = msgspec.field(default_factory=lambda: list(MASKED))
    """Names whose values are masked, alone or as the last words of a longer name: `token` is
    `access_token`, `X-Auth-Token` and `refreshToken` too, and not `tokens_in`."""
    exclude: dict[str, list[str]] = msgspec.field(
        default_factory=lambda: {"token": ["vllm.>", "vllm_token"]}
    )
    """Names that are left alone, standing alone, in events whose type or subject fits a pattern:
    what a model streams is called a token too."""


class LogSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Logging, to standard error."""

    level: typing.Literal["debug", "info", "warning", "error"] = "info"
    """The least level that is written."""
    format: typing.Literal["auto", "console", "json"] = "auto"
    """`auto` writes for people on a terminal and JSON elsewhere."""


class Settings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The whole configuration."""

    server: ServerSettings = msgspec.field(default_factory=ServerSettings)
    storage: StorageSettings = msgspec.field(default_factory=StorageSettings)
    supervisor: SupervisorSettings = msgspec.field(default_factory=SupervisorSettings)
    panels: PanelSettings = msgspec.field(default_factory=PanelSettings)
    auth: AuthSettings = msgspec.field(default_factory=AuthSettings)
    redaction: RedactionSettings = msgspec.field(default_factory=RedactionSettings)
    log: LogSettings = msgspec.field(default_factory=LogSettings)
    dashboards: list[DashboardSettings] = []
    """Pages of panels. One named `overview` replaces the first page, one named as a plugin that
    plugin's page; others are added. Without any, each plugin with panels has its page."""
    plugins_dir: Path | None = None
    """Folder of plugins that are not installed: each a `.py` file, or a folder with an
    `__init__.py`."""
    plugins: dict[str, Any] = {}
    """Settings of each plugin, by its name; and `disabled`, the list of plugins to leave out."""

    def __post_init__(self) -> None:
        disabled = self.plugins.get("disabled", [])
        if not isinstance(disabled, list) or not all(isinstance(it, str) for it in disabled):
            raise ValueError("plugins.disabled must be a list of names of plugins")
        for name, tree in self.plugins.items():
            if name != "disabled" and tree is not None and not isinstance(tree, dict):
                raise ValueError(
                    f"plugins.{name} must hold `name: value` lines; it is {type(tree).__name__}"
                )

    @property
    def disabled(self) -> list[str]:
        """The plugins to leave out."""
        return list(self.plugins.get("disabled", []))

    @property
    def of_plugins(self) -> dict[str, dict[str, Any]]:
        """What is said of each plugin, still untyped."""
        return {name: tree or {} for name, tree in self.plugins.items() if name != "disabled"}


def load(path: Path | None, environment: Mapping[str, str] = os.environ) -> Settings:
    """The configuration of the file at `path`, or the defaults, with the environment on top.

    Raises `ConfigError` for a file that cannot be read or says something unknown or wrong.
    """
    tree: Any = {}
    if path is not None:
        try:
            tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be read: {error.strerror}. Check the path given to --config."
            ) from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds {type(tree).__name__}, expected `name: value` lines")
    overlay_environment(tree, environment)
    return read(Settings, tree, place="")


def overlay_environment(tree: dict[str, Any], environment: Mapping[str, str]) -> None:
    """Put every `ALMENARA_A__B=value` into `tree["a"]["b"]`, the value read as YAML."""
    for name, text in environment.items():
        if not name.startswith(ENVIRONMENT_PREFIX):
            continue
        *above, last = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        if not above:
            continue
        branch = tree
        for part in above:
            branch = branch.setdefault(part, {})
            if not isinstance(branch, dict):
                raise ConfigError(f"{name} sets a part of {part}, which is a single value")
        branch[last] = yaml.safe_load(text)


S = typing.TypeVar("S", bound=msgspec.Struct)


def read(kind: type[S], tree: Any, *, place: str) -> S:
    """`tree` as the settings struct `kind`.

    Raises `ConfigError` naming the place, the value, what was expected and the nearest name.
    """
    check_names(kind, tree, place)
    try:
        return msgspec.convert(tree, kind, strict=False, dec_hook=_decode)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `$")
        spot = f"{place}{where.rstrip('`')}".lstrip(".") or "the configuration"
        if message.startswith(SECRET):
            raise ConfigError(f"{spot}: {message.removeprefix(SECRET)}") from None
        if message.startswith("Invalid enum value") and (words := _choices(kind, where)):
            raise ConfigError(f"{spot}: {message}, expected one of {words}") from None
        value = value_at(tree, where)
        found = f", found {value}" if value else ""
        raise ConfigError(f"{spot}: {message}{found}") from None


SECRET: Final = "secret: "  # noqa: S105


class SecretError(ValueError):
    """A secret that cannot be had; whose value must not be shown either."""

    def __init__(self, text: str) -> None:
        super().__init__(SECRET + text)


def _decode(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value).expanduser()
    if kind is Secret:
        try:
            return Secret.read(value)
        except ValueError as error:
            raise SecretError(str(error)) from None
    raise msgspec.ValidationError(f"Expected `{kind.__name__}`, got `{type(value).__name__}`")


def check_names(kind: Any, tree: Any, place: str) -> None:
    """Refuse the first unknown name in `tree`, with the nearest known one."""
    if not isinstance(tree, dict) or not (
        isinstance(kind, type) and issubclass(kind, msgspec.Struct)
    ):
        return
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    for name, value in tree.items():
        spot = f"{place}.{name}".lstrip(".")
        if name not in fields:
            near = difflib.get_close_matches(str(name), fields, n=1, cutoff=0.55)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(fields)}"
            raise ConfigError(f"{spot} is not a setting; {hint}")
        _check_inside(fields[name].type, value, spot)


def _check_inside(kind: Any, value: Any, spot: str) -> None:
    """Look into a value for names and, where they stand under names of people's own, for values."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is list and isinstance(value, list):
        for number, entry in enumerate(value):
            _check_inside(inner[0], entry, f"{spot}[{number}]")
    elif origin is dict and isinstance(value, dict):
        for name, entry in value.items():
            _check_inside(inner[1], entry, f"{spot}.{name}")
            if isinstance(inner[1], type) and issubclass(inner[1], msgspec.Struct):
                # An error of the whole would not say under which name.
                read(inner[1], entry, place=f"{spot}.{name}")
    elif inner and origin not in (list, dict):
        for part in inner:
            check_names(part, value, spot)
    else:
        check_names(kind, value, spot)


def _choices(kind: Any, where: str) -> str:
    """What a setting may be, where it is one of a few words; empty where it is not."""
    for step in re.findall(r"[A-Za-z_]\w*|\[", where):
        parts = [it for it in (kind, *get_args(kind)) if isinstance(it, type)]
        structs = [it for it in parts if issubclass(it, msgspec.Struct)]
        if step == "[":
            kind = get_args(kind)[-1] if get_args(kind) else kind
        elif structs:
            fields = {field.encode_name: field.type for field in msgspec.structs.fields(structs[0])}
            kind = fields.get(step)
    found = [kind, *get_args(kind)]
    words = [str(it) for part in found if get_origin(part) is typing.Literal
             for it in get_args(part)]  # fmt: skip
    return ", ".join(words)


def value_at(tree: Any, where: str) -> str:
    """The value at a msgspec path such as `.server.port`, unless it is or may hold a secret.

    Empty for a whole section: it says nothing, and something in it may be secret.
    """
    value = tree
    for step in where.rstrip("`").replace("[", ".").replace("]", "").strip(".").split("."):
        if any(word in step for word in ("password", "token", "secret", "nkey", "seed")):
            return "a secret value"
        try:
            value = value[int(step)] if isinstance(value, list) else value[step]
        except (KeyError, IndexError, ValueError, TypeError):
            return "nothing there"
    if isinstance(value, dict | list):
        return ""
    return CREDENTIALS.sub("//***@", repr(value))[:120]
