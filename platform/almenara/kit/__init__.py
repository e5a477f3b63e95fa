"""What every source would otherwise write again."""

from almenara.clock import monotonic, now, sleep
from almenara.kit.blocking import BlockingClient, blocking
from almenara.kit.cancelling import heed_cancellation
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
    "heed_cancellation",
    "monotonic",
    "now",
    "poll",
    "sleep",
    "watch",
]
