"""The configuration: its model, its loader, and the documents generated from it."""

from almenara.config.alerting import (
    AlertingSettings,
    HeartbeatSettings,
    ReceiverSettings,
    RouteSettings,
)
from almenara.config.bus import EMBEDDED, BusSettings
from almenara.config.checkpoints import CheckpointSettings
from almenara.config.common import Count, GrantSettings, Port, Positive
from almenara.config.intake import (
    BUILTIN_INTAKES,
    INTAKE_NAME,
    IntakeSettings,
    WebhookMapping,
)
from almenara.config.loader import apply_environment, decode_settings, load_settings
from almenara.config.model import (
    AuthMode,
    AuthSettings,
    DashboardSettings,
    Isolation,
    KubernetesAccessSettings,
    LogSettings,
    OidcSettings,
    PanelSettings,
    PlacedPanel,
    ProxySettings,
    RoleName,
    RoleSettings,
    ServerSettings,
    Settings,
    SourceLimits,
    StorageSettings,
    SupervisorSettings,
    TlsSettings,
)
from almenara.config.rules import EventMatch, IngestRule, RedactionSettings, RetentionRule
from almenara.config.samples import RemoteWriteSettings, SampleSettings
from almenara.config.secrets import Secret, parse_http_url, redact_secrets
from almenara.config.suggestions import suggest
from almenara.errors import ConfigError

__all__ = [
    "BUILTIN_INTAKES",
    "EMBEDDED",
    "INTAKE_NAME",
    "AlertingSettings",
    "AuthMode",
    "AuthSettings",
    "BusSettings",
    "CheckpointSettings",
    "ConfigError",
    "Count",
    "DashboardSettings",
    "EventMatch",
    "GrantSettings",
    "HeartbeatSettings",
    "IngestRule",
    "IntakeSettings",
    "Isolation",
    "KubernetesAccessSettings",
    "LogSettings",
    "OidcSettings",
    "PanelSettings",
    "PlacedPanel",
    "Port",
    "Positive",
    "ProxySettings",
    "ReceiverSettings",
    "RedactionSettings",
    "RemoteWriteSettings",
    "RetentionRule",
    "RoleName",
    "RoleSettings",
    "RouteSettings",
    "SampleSettings",
    "Secret",
    "ServerSettings",
    "Settings",
    "SourceLimits",
    "StorageSettings",
    "SupervisorSettings",
    "TlsSettings",
    "WebhookMapping",
    "apply_environment",
    "decode_settings",
    "load_settings",
    "parse_http_url",
    "redact_secrets",
    "suggest",
]
