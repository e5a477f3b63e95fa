"""The dead man's switch: a request at an interval, as long as alerts reach the receivers.

It stops when the log cannot be written, rules are not evaluated or alerts are not processed, and
of course with Almenara itself, so that whoever expects it reports what Almenara cannot report any
more.
"""

from typing import Final, Protocol

import structlog

from almenara.bus import Bus
from almenara.config import ConfigError, HeartbeatSettings, parse_http_url, redact_secrets
from almenara.errors import describe_error
from almenara.sdk import every

log = structlog.get_logger(__name__)

SETTING: Final = "alerting.heartbeat"


class Notifications(Protocol):
    """What is supervised: the dispatcher."""

    @property
    def bus(self) -> Bus: ...

    @property
    def is_current(self) -> bool: ...


def check_heartbeat(settings: HeartbeatSettings) -> None:
    """Raise `ConfigError` for a URL that is not valid, and where the HTTP client is missing."""
    try:
        parse_http_url(settings.url.reveal(), SETTING, "put a token into the path or the query")
    except (ValueError, OSError) as error:
        raise ConfigError(f"{SETTING}.url: {error}") from None
    try:
        import httpx  # noqa: F401
    except ImportError:
        raise ConfigError(
            f"{SETTING} needs libraries that are not installed: pip install 'almenara[notifiers]'"
        ) from None


class Evaluation(Protocol):
    """What the alerts come from: the evaluation of rules."""

    @property
    def problem(self) -> str:
        """Why rules are not evaluated; empty while they are."""


class Heartbeat:
    """Sends the requests."""

    def __init__(
        self,
        settings: HeartbeatSettings,
        notifications: Notifications,
        evaluation: Evaluation | None = None,
    ) -> None:
        """Without an evaluation, alerts of another one arrive on the bus."""
        self.settings, self.notifications, self.evaluation = settings, notifications, evaluation
        self._reason = ""

    async def run(self) -> None:
        """Send a request at each interval, until cancelled."""
        # httpx is loaded only where a heartbeat is configured.
        from almenara.sdk.http import create_client, describe_http_error

        async for _ in every(self.settings.interval):
            reason = self.find_problem()
            try:
                if not reason:
                    url = self.settings.url.reveal()
                    async with create_client(url, timeout=self.settings.timeout) as client:
                        response = await client.post(url)
                    if not response.is_success:
                        reason = f"the receiver responded with status {response.status_code}"
            except Exception as error:
                reason = redact_secrets(
                    describe_http_error(error, self.settings.timeout), [self.settings.url]
                )
            self._note(describe_error(ValueError(reason)) if reason else "")

    def find_problem(self) -> str:
        """Return why the heartbeat must not be sent; empty while it may."""
        bus = self.notifications.bus
        if problem := bus.failure or bus.write_problem:
            return problem
        if self.evaluation is not None and (problem := self.evaluation.problem):
            return problem
        return "" if self.notifications.is_current else "alerts are not processed"

    def _note(self, reason: str) -> None:
        if reason and reason != self._reason:
            log.warning("the heartbeat is not sent", reason=reason)
        elif self._reason and not reason:
            log.info("the heartbeat is sent again")
        self._reason = reason
