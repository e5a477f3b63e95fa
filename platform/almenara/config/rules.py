"""Rules for events: which are stored, for how long, and what is redacted in them."""

from typing import Annotated, ClassVar, Final, Literal

import msgspec

SeverityName = Literal["INFO", "WARN", "ERROR", "FATAL"]


class EventMatch(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Events that match every field that is set; `origin` or `type` is required."""

    origin: str = ""
    """Origin of the event, or a pattern: `nats/PLANNING_*`; `nats/**` for all of a source."""
    type: str = ""
    """Type of the event, or a pattern: `vllm.*`."""
    severity_below: SeverityName | None = None
    """Match only events that are less severe, so that a rule for noise spares failures."""

    def __post_init__(self) -> None:
        if not (self.origin or self.type):
            raise ValueError("set origin or type; `type: '>'` matches every event")


class IngestRule(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A share of matching events to store. The first rule that matches an event decides."""

    match: EventMatch
    """Events that the rule is for."""
    keep: Annotated[float, msgspec.Meta(ge=0, le=1)]
    """Share of them that is stored: `0.01` for one in a hundred, `0` for none, `1` for all."""


class RetentionRule(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """An age at which matching events are deleted, before all others."""

    match: EventMatch
    """Events that the rule is for."""
    age: Annotated[float, msgspec.Meta(gt=0)]
    """Seconds after which they are deleted."""


def check_ages(rules: list[RetentionRule], retention_age: float) -> None:
    """Raise `ValueError` for a rule that never applies."""
    for index, rule in enumerate(rules):
        if rule.age > retention_age:
            raise ValueError(
                f"the age of retention_rules[{index}] is {rule.age:,.0f} s, longer than"
                f" retention_age ({retention_age:,.0f} s), after which every event is"
                " deleted; raise retention_age, or remove the rule"
            )


REDACTED_NAMES: Final = (
    "password", "passwd", "passphrase", "secret", "token", "authorization", "cookie",
    "api_key", "apikey", "private_key", "credentials",
)  # fmt: skip


class RedactionSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Values that are redacted before a signal is stored."""

    RENAMED: ClassVar[dict[str, str]] = {"spare": "exclude"}

    keys: list[str] = msgspec.field(default_factory=lambda: list(REDACTED_NAMES))
    """Names whose values are redacted, also as the last words of a longer name: `token` matches
    `access_token`, `X-Auth-Token` and `refreshToken`, but not `tokens_in`."""
    exclude: dict[str, list[str]] = msgspec.field(
        default_factory=lambda: {"token": ["vllm.>", "vllm_token"]}
    )
    """Exceptions: for a name, patterns of event types and subjects in which it is not redacted when
    it stands alone. Streamed output of language models uses the name `token`."""
