"""The health of a source that is made of parts: streams, kinds of objects, endpoints."""

from typing import Final

from almenara.hookspecs import SourceReport

LISTED: Final = 5
"""Reasons that are written out; a hundred failing parts mostly fail for the same reason."""


class HealthAggregator:
    """Collects what is wrong with each part of a source, and reports all of it as one.

    The source is degraded while at least one part is failing, and recovers with the last of them.
    It is reported only when something changes, so parts may be noted as often as they are checked.
    """

    def __init__(self, report: SourceReport) -> None:
        self._report = report
        self._reasons: dict[str, str] = {}
        self._is_known = False

    def note(self, part: str, reason: str) -> None:
        """Mark a part as failing for `reason`; an empty reason marks it as healthy."""
        if not reason:
            self.clear(part)
        elif self._reasons.get(part) != reason:
            self._reasons[part] = reason
            self._publish()

    def clear(self, part: str) -> None:
        """Mark a part as healthy, or forget it."""
        if self._reasons.pop(part, None) is not None or not self._is_known:
            self._publish()

    def reason(self, part: str) -> str:
        """The reason why a part is failing; empty for a healthy part."""
        return self._reasons.get(part, "")

    @property
    def failing(self) -> dict[str, str]:
        """The failing parts with their reasons, oldest first."""
        return dict(self._reasons)

    @property
    def summary(self) -> str:
        """All reasons in one line, each once; empty while every part is healthy."""
        reasons = list(dict.fromkeys(self._reasons.values()))
        more = len(reasons) - LISTED
        return "; ".join(reasons[:LISTED]) + (f"; and {more} more" if more > 0 else "")

    def _publish(self) -> None:
        self._is_known = True
        if self._reasons:
            self._report.degraded(self.summary)
        else:
            self._report.recovered()
