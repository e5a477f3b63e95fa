"""Apprise: a hundred further services, each notification in a process of its own.

Apprise and its libraries take 36 MiB: this way only while a notification is sent. What one of its
plugins does wrong ends with the process.
"""

import asyncio
import contextlib
import importlib.util
import sys
from typing import Final

import msgspec

from almenara.config import redact_secrets
from almenara.hookspecs import Delivery, DeliveryError, Notification
from almenara.sdk import describe_error
from almenara_notifiers.client import reveal
from almenara_notifiers.settings import AppriseSettings

MAX_OUTPUT: Final = 65_536
TYPES: Final = {"resolved": "success", "firing": "failure"}


class AppriseResult(msgspec.Struct):
    """What the process reports."""

    is_delivered: bool
    reason: str = ""


class AppriseNotifier:
    """Starts the process. Raises `ValueError` where Apprise is not installed."""

    def __init__(self, settings: AppriseSettings) -> None:
        if importlib.util.find_spec("apprise") is None:
            raise ValueError("apprise is not installed: pip install 'almenara[apprise]'")
        self.settings = settings

    async def notify(self, notification: Notification) -> Delivery:
        link = f"\n\n{notification.link}" if notification.link else ""
        message = {
            "urls": [reveal(url) for url in self.settings.urls],
            "title": notification.title,
            "body": f"{notification.text}{link}",
            "type": TYPES[notification.status],
        }
        output = await self._run(msgspec.json.encode(message))
        try:
            result = msgspec.json.decode(output.rpartition(b"\n")[2], type=AppriseResult)
        except msgspec.MsgspecError:
            text = output.decode("utf-8", "replace")[-500:]
            result = AppriseResult(False, f"the process of Apprise ended: {text or 'no output'}")
        if not result.is_delivered:
            reason = redact_secrets(result.reason, self.settings.urls)
            raise DeliveryError(describe_error(ValueError(reason)))
        return Delivery()

    async def _run(self, message: bytes) -> bytes:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "almenara_notifiers.apprise_process",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            output, _ = await process.communicate(message)
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        return output[-MAX_OUTPUT:].strip()
