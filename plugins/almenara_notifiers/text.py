"""Texts of notifications, cut to what a receiver accepts."""

from typing import Final

from almenara.hookspecs import Notification
from almenara.signals import Severity

COLORS: Final = {
    Severity.FATAL: "#b0182b",
    Severity.ERROR: "#d43d3d",
    Severity.WARN: "#d9a027",
    Severity.INFO: "#4a90d9",
    Severity.DEBUG: "#8a8f98",
}
RESOLVED_COLOR: Final = "#3fa45b"
LINK_TEXT: Final = "Open in Almenara"


def color_of(notification: Notification) -> str:
    """Return the color of a notification: green once it is resolved, else that of its severity."""
    is_resolved = notification.status == "resolved"
    return RESOLVED_COLOR if is_resolved else COLORS[notification.severity]


def cut(text: str, limit: int) -> str:
    """Return at most `limit` characters."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def cut_bytes(text: str, limit: int) -> str:
    """Return a text of at most `limit` bytes in UTF-8."""
    encoded = text.encode()
    if len(encoded) <= limit:
        return text
    return encoded[: limit - 3].decode(errors="ignore") + "…"
