"""What plugins import besides the contract: what every source would otherwise write again."""

from almenara.cancellation import finish_within, honor_cancellation, run_in_task
from almenara.clock import monotonic, now, sleep
from almenara.config import Secret, suggest
from almenara.errors import (
    AlmenaraError,
    ConfigError,
    Forbidden,
    LimitExceeded,
    NotFound,
    Unavailable,
    describe_error,
)
from almenara.event_types import type_from_address
from almenara.likely_secrets import is_secret_name, mask_secrets
from almenara.patterns import compile_expression, compile_pattern
from almenara.sdk.blocking_client import BlockingClient, blocking
from almenara.sdk.health import HealthAggregator
from almenara.sdk.polling import Backoff, every, poll
from almenara.sdk.snapshots import Changes, Snapshots
from almenara.sdk.watch import ExpiredError, watch
from almenara.sdk.windows import Window, add_to_window, join
from almenara.signals import mark_unknown
from almenara.urls import redact_urls

__all__ = [
    "AlmenaraError",
    "Backoff",
    "BlockingClient",
    "Changes",
    "ConfigError",
    "ExpiredError",
    "Forbidden",
    "HealthAggregator",
    "LimitExceeded",
    "NotFound",
    "Secret",
    "Snapshots",
    "Unavailable",
    "Window",
    "add_to_window",
    "blocking",
    "compile_expression",
    "compile_pattern",
    "describe_error",
    "every",
    "finish_within",
    "honor_cancellation",
    "is_secret_name",
    "join",
    "mark_unknown",
    "mask_secrets",
    "monotonic",
    "now",
    "poll",
    "redact_urls",
    "run_in_task",
    "sleep",
    "suggest",
    "type_from_address",
    "watch",
]
