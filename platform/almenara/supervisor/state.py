"""What is known of a source, for the Sources page, the API and the metrics."""

from typing import Final, Literal

import msgspec

from almenara.config import Isolation
from almenara.signals import now

Status = Literal["starting", "running", "degraded", "blocked", "backing_off", "stopped"]
LONGEST_ERROR: Final = 500


class SourceState(msgspec.Struct, kw_only=True):
    """What is known of one source."""

    name: str
    plugin: str
    isolation: Isolation = "thread"
    """What keeps it apart from the others."""
    status: Status = "starting"
    since: int = msgspec.field(default_factory=now)
    """When it came into that status, in microseconds since the epoch."""
    error: str | None = None
    """The last error, for the person who reads it."""
    error_time: int | None = None
    restarts: int = 0
    events: int = 0
    """Events published since Almenara started."""
    rate: float = 0.0
    """Events a second, over the last ten."""
    lag: int | None = None
    """Messages that wait upstream, where the source knows."""
    rejected: int = 0
    """Messages that could be kept only with a problem marked."""
    held_back: int = 0
    """Signals that had to wait because the source was above its rate."""
    tasks: int | None = None
    """Tasks of its event loop; None while it has none of its own."""
    memory: int | None = None
    """Resident bytes of its process; None where it has none of its own."""
    blocked: str | None = None
    """Where its event loop stands still, the innermost call last; None while it moves."""

    def become(self, status: Status) -> None:
        """Note a status, and since when."""
        if self.status != status:
            self.status = status
            self.since = now()

    def note(self, error: str) -> None:
        """Note an error."""
        self.error = error[:LONGEST_ERROR]
        self.error_time = now()


def sentence(error: BaseException) -> str:
    """An error in one line, the errors of a group among them."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(dict.fromkeys(sentence(it) for it in error.exceptions))
    if isinstance(error, SourceError):
        return str(error)
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class SourceError(RuntimeError):
    """What ended a source, in words that need no name of a type in front."""
