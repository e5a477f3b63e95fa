"""Rules about the notifiers of a plugin."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any, Final

from almenara.errors import describe_error
from almenara.hookspecs import Alert, Delivery, Notification, Notifier, NotifierKind
from almenara.signals import Severity, now
from almenara.testing.rules.settings import capture_logs, insert_sentinels
from almenara.testing.rules.subject import Skip, Subject

PATIENCE: Final = 20.0
"""Seconds that a delivery may take."""
CANCEL_TIMEOUT: Final = 1.0
"""Seconds that a delivery may take to end when it is cancelled."""
HOSTILE: Final = (
    "<!channel> @everyone <script>alert(1)</script> [link](https://evil.example) *bold*"
    " {{ 7 * 7 }} %s \u202egnp.exe"
)
"""Text with the markup of several receivers."""


def make_notification(version: int, *, is_resolved: bool = False, reference: str = "") -> Any:
    """A notification about one alert with hostile texts."""
    alert = Alert(
        rule="conformance",
        fingerprint="f1",
        status="resolved" if is_resolved else "firing",
        labels={"namespace": HOSTILE, "team\r\nBcc: x@evil.example": "a\r\nb"},
        summary=HOSTILE,
        description=HOSTILE,
        value=1.5,
        started=now(),
        since=now(),
        ended=now() if is_resolved else None,
    )
    return Notification(
        receiver="conformance",
        group="conformance",
        episode=f"conformance-{now() // 60_000_000}",
        version=version,
        status="resolved" if is_resolved else "firing",
        severity=Severity.ERROR,
        title=f"conformance {HOSTILE}",
        text=f"{HOSTILE}\nsecond line",
        alerts=(alert,),
        open_count=0 if is_resolved else 1,
        resolved_count=1 if is_resolved else 0,
        reference=reference,
        created=now(),
    )


def require_notifiers(subject: Subject) -> Iterator[tuple[NotifierKind, Notifier]]:
    """A notifier of each kind for which there are settings of a receiver. Raises `Skip`."""
    kinds = {kind.name: kind for kind in subject.notifier_kinds()}
    if not kinds:
        raise Skip("it has no notifier")
    if not subject.receivers:
        raise Skip(
            "no settings of a receiver were passed: conformance(..., receivers={...}), or"
            " `almenara plugin check --receivers FILE`"
        )
    for name, tree in subject.receivers.items():
        if name not in kinds:
            raise AssertionError(f"it has no notifier named {name!r}")
        yield kinds[name], create_notifier(subject, kinds[name], tree)


def create_notifier(subject: Subject, kind: NotifierKind, tree: Any) -> Notifier:
    """The notifier of a kind. Raises `ConfigError`, and what its `create` raises."""
    notifier = kind.create(subject.decode_receiver(kind, tree))
    if not asyncio.iscoroutinefunction(getattr(notifier, "notify", None)):
        raise AssertionError(
            f"notifier {kind.name} must have `async def notify(self, notification)`"
        )
    return notifier


async def names_its_notifiers(subject: Subject) -> None:
    names = [kind.name for kind in subject.notifier_kinds()]
    if not names:
        raise Skip("it has no notifier")
    for name in names:
        if names.count(name) > 1:
            raise AssertionError(f"two of its notifiers are named {name!r}; names must be unique")


async def delivers_notifications(subject: Subject) -> None:
    for kind, notifier in require_notifiers(subject):
        reference = ""
        for version, is_resolved in ((1, False), (2, False), (3, True)):
            notification = make_notification(version, is_resolved=is_resolved, reference=reference)
            async with asyncio.timeout(PATIENCE):
                delivery = await notifier.notify(notification)
            if not isinstance(delivery, Delivery):
                raise AssertionError(  # noqa: TRY004 # what a rule raises
                    f"notify of {kind.name} must return almenara.hookspecs.Delivery; it returned"
                    f" {type(delivery).__name__}"
                )
            reference = delivery.reference


async def ends_deliveries_when_cancelled(subject: Subject) -> None:
    for kind, notifier in require_notifiers(subject):
        task = asyncio.ensure_future(notifier.notify(make_notification(1)))
        await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=CANCEL_TIMEOUT)
        if not done:
            raise AssertionError(
                f"notify of {kind.name} did not end within {CANCEL_TIMEOUT:g} s of its"
                " cancellation; let CancelledError pass"
            )
        if not task.cancelled():
            # What the delivery raised or returned just before is no matter of this rule.
            task.exception()


async def shows_no_secret_in_deliveries(subject: Subject) -> None:
    kinds = {kind.name: kind for kind in subject.notifier_kinds()}
    if not kinds:
        raise Skip("it has no notifier")
    has_secret = False
    for name, tree in subject.receivers.items():
        sentinels: list[str] = []
        filled = insert_sentinels(kinds[name].settings, dict(tree), sentinels)
        has_secret = has_secret or bool(sentinels)
        outputs: list[str] = []
        with capture_logs() as captured:
            with contextlib.suppress(asyncio.CancelledError):
                try:
                    notifier = create_notifier(subject, kinds[name], filled)
                    outputs += [repr(notifier), str(notifier)]
                    async with asyncio.timeout(PATIENCE):
                        await notifier.notify(make_notification(1))
                except Exception as error:
                    outputs += [describe_error(error), repr(error)]
            outputs.append(captured.getvalue())
        if any(sentinel in output for sentinel in sentinels for output in outputs):
            raise AssertionError(
                f"a secret of the settings of {name} is in an error or a log line; call reveal()"
                " only where the secret is used, and pass errors of libraries through"
                " almenara.config.redact_secrets"
            )
    if not has_secret:
        raise Skip("no receiver has a secret among its settings")
