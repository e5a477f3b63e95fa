"""History: queries over the log."""

from almenara.history.filter import Filter
from almenara.history.queries import History

__all__ = ["Filter", "History"]
