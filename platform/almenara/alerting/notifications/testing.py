"""Tests of receivers: a notification that says so, past the outbox."""

import msgspec

from almenara.alerting.notifications.content import SAMPLE, render
from almenara.alerting.notifications.delivery import deliver
from almenara.alerting.notifications.receivers import Receiver
from almenara.signals import now
from almenara.units import SECOND


async def send_test(receiver: Receiver, base_url: str = "") -> None:
    """Deliver a test notification; where the receiver tracks groups, its end as well.

    Raises `DeliveryError`.
    """
    moment = now()
    sample = msgspec.structs.replace(
        SAMPLE,
        receiver=receiver.name,
        group=f"test-{receiver.name}",
        episode=f"test-{receiver.name}-{moment}",
        version=moment // SECOND,
        link=f"{base_url.rstrip('/')}/" if base_url else "",
        is_test=True,
        created=moment,
    )
    note = "This is a test of Almenara. No alert is firing."
    notification = render(sample, receiver.content, note)
    delivery = await deliver(receiver.notifier, notification, receiver.settings.timeout)
    if receiver.kind.capabilities.tracks_groups:
        alerts = tuple(
            msgspec.structs.replace(alert, status="resolved", ended=moment)
            for alert in sample.alerts
        )
        end = msgspec.structs.replace(
            sample,
            version=sample.version + 1,
            status="resolved",
            alerts=alerts,
            open_count=0,
            resolved_count=1,
            reference=delivery.reference,
        )
        notification = render(end, receiver.content, note)
        await deliver(receiver.notifier, notification, receiver.settings.timeout)
