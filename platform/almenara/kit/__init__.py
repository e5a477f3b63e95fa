"""What every source would otherwise write again."""

from almenara.clock import monotonic, now, sleep
from almenara.kit.blocking import BlockingClient, blocking
from almenara.kit.cancelling import heeded
from almenara.kit.differing import Changes, Snapshots
from almenara.kit.polling import Backoff, every, poll
from almenara.kit.watching import ExpiredError, watch

__all__ = [
    "Backoff",
    "BlockingClient",
    "Changes",
    "ExpiredError",
    "Snapshots",
    "blocking",
    "every",
    "heeded",
    "monotonic",
    "now",
    "poll",
    "sleep",
    "watch",
]
