"""Notifications, and the notifiers of plugins that deliver them.

Part of the contract: `almenara.hookspecs` has all of these names.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import msgspec

from almenara.errors import AlmenaraError
from almenara.signals import Severity
from almenara.structs import NamedStructMeta

AlertStatus = Literal[
    "pending", "firing", "acknowledged", "silenced", "inhibited", "flapping", "resolved", "unknown"
]


class Alert(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An alert as it was when a notification was made. Every text is input from outside: a notifier
    escapes it for its receiver."""

    rule: str
    fingerprint: str
    """Identifies the alert among those of its rule."""
    status: AlertStatus
    severity: Severity = Severity.ERROR
    labels: dict[str, str] = {}
    summary: str = ""
    description: str = ""
    runbook: str = ""
    """Address of instructions, or instructions in Markdown."""
    value: float | str | None = None
    threshold: float | str | None = None
    since: int = 0
    """Microseconds since the epoch at which it reached its status."""
    started: int = 0
    """Microseconds since the epoch at which it started."""
    ended: int | None = None
    """Microseconds since the epoch at which it was resolved."""
    resource: tuple[str, str, str] | None = None
    """Kind, namespace and name of the resource that it is about."""
    cause: str = ""
    """Why it has its status."""
    by: str = ""
    """Who acknowledged it."""
    assignee: str = ""
    """Who takes care of it."""
    metric: str = ""
    """The metric that its rule compares; empty for other rules."""
    points: tuple[tuple[int, float], ...] = ()
    """The last samples of that metric, for notifiers that draw them: microseconds since the epoch
    and values, the oldest first."""

    @property
    def is_open(self) -> bool:
        """Whether it has not been resolved."""
        return self.status != "resolved"


class Notification(msgspec.Struct, frozen=True, kw_only=True):
    """A notification for one receiver, about a group of alerts or about several groups."""

    receiver: str
    """Name of the receiver in the configuration."""
    group: str
    """Identifies the group; stays the same as long as the group exists."""
    episode: str
    """Identifies the time from the first alert of the group until all are resolved. A receiver that
    tracks incidents opens, updates and resolves one incident for each episode."""
    version: int
    """Increases with every notification of a group to a receiver. A notification that is delivered
    again has the same version."""
    status: Literal["firing", "resolved"]
    """`resolved` once no alert of the group is open."""
    severity: Severity
    """The highest severity of the open alerts, or of all of them once they are resolved."""
    title: str
    """One line of plain text."""
    text: str
    """Lines of plain text, one for each alert unless the receiver has a template."""
    alerts: tuple[Alert, ...] = ()
    """The alerts, the open ones first; at most `Capabilities.max_alerts`."""
    open_count: int = 0
    """Number of open alerts, those that are not in `alerts` included."""
    resolved_count: int = 0
    """Number of alerts that were resolved since the previous notification."""
    omitted: int = 0
    """Number of alerts that are not in `alerts`."""
    group_labels: dict[str, str] = {}
    """The labels that the alerts were grouped by."""
    common_labels: dict[str, str] = {}
    """The labels that all alerts have in common."""
    link: str = ""
    """Address of the alerts in Almenara; empty where `server.url` is not set."""
    reference: str = ""
    """What the previous delivery of this episode returned; empty for the first."""
    is_quiet: bool = False
    """Whether no one needs to be alerted, because only an acknowledgement or the like has changed.
    Receivers that can neither edit nor acknowledge get none of these."""
    is_repeat: bool = False
    """Whether it repeats what has not changed since the previous one."""
    is_test: bool = False
    """Whether a user tests the receiver."""
    created: int = 0
    """Microseconds since the epoch at which it was made."""

    @property
    def key(self) -> str:
        """Identifies the notification: group, version and receiver."""
        return f"{self.group}/{self.version}/{self.receiver}"


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a delivery."""

    reference: str = ""
    """What later notifications of the same episode need in order to edit the message or to join its
    thread, such as the id of the message. Almenara stores it and passes it on unchanged."""


class Capabilities(msgspec.Struct, frozen=True, kw_only=True, metaclass=NamedStructMeta):
    """What a kind of notifier can do."""

    edit: bool = False
    """Whether it edits the message of `reference` rather than sending another one."""
    thread: bool = False
    """Whether it adds to the thread of `reference`."""
    acknowledge: bool = False
    """Whether it passes acknowledgements on."""
    tracks_groups: bool = False
    """Whether the receiver tracks the state of each group. Its notifications are never combined
    into a digest: beyond the rate limit they wait."""
    charts: bool = False
    """Whether it draws `Alert.points`."""
    max_alerts: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 20
    """Maximum number of alerts in a notification."""


@runtime_checkable
class Notifier(Protocol):
    """Delivers notifications to one receiver."""

    async def notify(self, notification: Notification) -> Delivery:
        """Deliver a notification; return once the receiver has accepted it.

        It is called again with the same notification after an error, and after a crash of Almenara
        also if it was delivered: pass `notification.key` on, or `episode` and `version`, where the
        receiver can recognize duplicates. For one receiver it is called for one notification at a
        time, and it is cancelled after the `timeout` of the receiver. Raises `DeliveryError`,
        `DeliveryRefusedError`, or anything else, which counts as a temporary error.
        """


class AlertAction(msgspec.Struct, frozen=True, kw_only=True):
    """What a user of a receiver has chosen in a message."""

    action: Literal["acknowledge", "silence"]
    alert: str
    """`<rule>/<fingerprint>`, as the notification had them."""
    by: str
    """Name of the user at the receiver."""
    seconds: float = 3600.0
    """Duration of a silence."""


@runtime_checkable
class InteractiveNotifier(Notifier, Protocol):
    """A notifier whose messages have buttons. The receiver sends what a user chooses to the address
    `/alerts/callbacks/<receiver>` of Almenara."""

    def read_callback(self, headers: Mapping[str, str], body: bytes) -> Sequence[AlertAction]:
        """Return what a request to that address asks for; names of headers are in lower case.

        It must verify that the request is from the receiver. Raises `ValueError` where it is not,
        or where it cannot be read.
        """


class NotifierKind(msgspec.Struct, frozen=True, kw_only=True, metaclass=NamedStructMeta):
    """A kind of notifier that a plugin offers; receivers of the configuration select it by name."""

    name: str
    """Name, unique over all plugins: `slack`."""
    settings: type[msgspec.Struct]
    """Struct of the settings of a receiver of this kind."""
    create: Callable[[Any], Notifier]
    """Creates the notifier of one receiver from its settings. It must not connect yet."""
    capabilities: Capabilities = Capabilities()
    """What it can do."""
    title: str = ""
    """Name for people: `Slack`."""


class DeliveryError(AlmenaraError):
    """A notification was not delivered; it is delivered again later. The text says why, and what to
    do, without any secret."""

    def __init__(self, text: str, *, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.retry_after = retry_after
        """Seconds after which the receiver accepts requests again, if it has named them."""


class DeliveryRefusedError(DeliveryError):
    """The receiver will never accept this notification, because of its content; it is not delivered
    again and is passed to the fallback."""
