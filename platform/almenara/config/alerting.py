"""The settings of alerting: rules, where notifications go, and when."""

from typing import Annotated, Any

import msgspec

from almenara.config.alert_rules import AlertMatch, AlertRule, FlappingSettings, NotNegative
from almenara.config.common import Count, GrantSettings, Positive
from almenara.config.secrets import Secret

Name = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]


class ReceiverSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A receiver: one channel, mailbox or address that notifications are delivered to."""

    name: Name
    """Name of the receiver; names are unique."""
    kind: str
    """Kind of the receiver, such as `slack`, `email` or `webhook`; `almenara alerts receivers`
    shows those of the installed plugins."""
    settings: dict[str, Any] = {}
    """Settings of that kind."""
    title: str = ""
    """Jinja template of the title. The default names the status, the rule and the group."""
    text: str = ""
    """Jinja template of the text. The default has a line for each alert."""
    send_resolved: bool = True
    """Whether to notify when the alerts of a group have been resolved."""
    grants: list[GrantSettings] = []
    """Alerts that the receiver may read: those that match any of these. Empty grants all alerts."""
    fallback: str = ""
    """Receiver that gets the notifications while this one is failing. The default is
    `alerting.fallback`."""
    rate_limit: Positive = 20.0
    """Sustained notifications per minute. Beyond it, waiting groups are combined into a digest, or
    wait, where the receiver tracks each group."""
    burst: Count = 20
    """Notifications above the rate that may be sent at once."""
    timeout: Positive = 15.0
    """Seconds that one delivery may take."""


class RouteSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A route: alerts that match it are grouped and go to its receivers, or on to its routes."""

    matchers: list[str] = []
    """Conditions on labels that an alert must all meet: `team=db`, `team!=db`, `team=~"db|web"`,
    `team!~"db|web"`. Besides the labels of the alert there are `rule` and `severity`."""
    receivers: list[str] | None = None
    """Receivers of the alerts. The default is those of the route above."""
    proceed: bool = msgspec.field(default=False, name="continue")
    """Whether an alert that matches is also compared with the routes that follow."""
    group_by: list[str] | None = None
    """Labels by which alerts are grouped; `...` stands for all labels. The default is that of the
    route above, and at the top `[rule]`."""
    group_wait: Annotated[float, msgspec.Meta(ge=0)] | None = None
    """Seconds that a new group waits for further alerts. The default is that of the route above,
    and at the top 30."""
    group_interval: Positive | None = None
    """Seconds between two notifications of a group that changes. The default is that of the route
    above, and at the top 300."""
    repeat_interval: Positive | None = None
    """Seconds after which a group that has not changed is notified again. The default is that of
    the route above, and at the top 14400."""
    routes: "list[RouteSettings]" = []
    """Routes below this one; the first that matches is used."""


class HeartbeatSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A dead man's switch: a request at an interval, as long as notifications are being processed.
    A service that expects it reports when it stops."""

    url: Secret
    """URL that is requested with POST, `http://` or `https://`."""
    interval: Positive = 60.0
    """Seconds between two requests."""
    timeout: Positive = 10.0
    """Seconds that a request may take."""


class AlertingSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Alerting: rules, and who is notified of which alerts, and when."""

    enabled: bool = False
    """Evaluate rules, and add the Alerts page."""
    default_rules: bool = True
    """Use the rules that come with plugins. A rule of the configuration replaces one of the same
    name."""
    disabled_rules: list[str] = []
    """Names of rules of plugins that are not used."""
    rules: list[AlertRule] = []
    """Rules."""
    inhibit: list[AlertMatch] = []
    """Inhibition, besides what follows from the resources: while a node, a cluster or a source has
    an alert, those of what depends on it do not notify."""
    flapping: FlappingSettings = msgspec.field(default_factory=FlappingSettings)
    """Flapping alerts."""
    source_grace: NotNegative = 30.0
    """Seconds for which a source may fail before its alerts are unknown."""
    max_alerts_per_rule: Count = 1_000
    """Maximum alerts of one rule; further groups are left out, and the rule is reported."""
    receivers: list[ReceiverSettings] = []
    """Receivers of notifications. Without any, no notification is sent."""
    route: RouteSettings = msgspec.field(default_factory=RouteSettings)
    """Root of the routing tree; it must name receivers."""
    fallback: str = ""
    """Receiver that gets the notifications of receivers that are failing."""
    fallback_after: Positive = 300.0
    """Seconds that a receiver must have been failing before its fallback is used."""
    heartbeat: HeartbeatSettings | None = None
    """Dead man's switch."""
