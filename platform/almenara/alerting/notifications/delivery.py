"""The delivery of one notification, apart from everything else that runs."""

import asyncio
from typing import Final

from almenara.errors import describe_error
from almenara.hookspecs import Delivery, DeliveryError, Notification, Notifier
from almenara.sdk import blocking

GRACE: Final = 5.0
"""Seconds that a notifier may take to end when it is cancelled; then it is abandoned."""
MAX_REFERENCE: Final = 2_000


async def deliver(notifier: Notifier, notification: Notification, seconds: float) -> Delivery:
    """Deliver a notification in a thread with an event loop of its own, so that a notifier that
    blocks affects nothing else.

    Raises `DeliveryRefusedError`, and `DeliveryError` for every other failure.
    """

    def run() -> Delivery:
        return asyncio.run(_notify(notifier, notification, seconds))

    try:
        async with asyncio.timeout(seconds + GRACE):
            return await blocking(run)
    except TimeoutError:
        raise DeliveryError(
            f"the notifier did not end within {seconds:g} s; it blocks, or ignores its cancellation"
        ) from None


async def _notify(notifier: Notifier, notification: Notification, seconds: float) -> Delivery:
    try:
        async with asyncio.timeout(seconds):
            delivery = await notifier.notify(notification)
    except DeliveryError:
        raise
    except TimeoutError:
        raise DeliveryError(f"no answer within {seconds:g} s") from None
    except Exception as error:
        raise DeliveryError(describe_error(error)) from None
    if not isinstance(delivery, Delivery):
        raise DeliveryError(
            f"the notifier returned {type(delivery).__name__} and not almenara.hookspecs.Delivery"
        )
    if len(delivery.reference) > MAX_REFERENCE:
        return Delivery()
    return delivery
