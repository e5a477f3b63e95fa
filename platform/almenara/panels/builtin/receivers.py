"""The receivers of notifications, with their health."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from almenara.bus import Record
from almenara.history import Filter
from almenara.panels.event_rows import link_to_events
from almenara.panels.panel import Panel
from almenara.panels.view import View
from almenara.signals import Resource

KIND: Final = "almenara.receiver"


async def prepare(view: View, filters: Filter) -> Mapping[str, Any]:
    receivers = [
        {
            "name": receiver.name,
            "status": receiver.status,
            "severity": receiver.severity.name,
            "events_link": link_to_events(type="almenara.notification.>", subject=receiver.name),
            **receiver.state,
        }
        for receiver in view.resources.of_kind(KIND)
        if not receiver.deleted
    ]
    return {
        "receivers": sorted(receivers, key=lambda row: (row["status"] != "failing", row["name"]))
    }


def has_receiver(batch: Sequence[Record], filters: Filter) -> bool:
    """Whether a batch has a change of a receiver."""
    return any(
        isinstance(record.signal, Resource) and record.signal.kind == KIND for record in batch
    )


PANEL: Final = Panel(
    name="receivers",
    title="Receivers",
    template="receivers.html",
    prepare=prepare,
    is_affected=has_receiver,
    min_interval=0.5,
)
