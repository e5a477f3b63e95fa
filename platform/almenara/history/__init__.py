"""History: queries over the log."""

from almenara.history.filter import Filter
from almenara.history.queries import History, PastBound

__all__ = ["Filter", "History", "PastBound"]
