"""Publishes derived resources and events, and remembers what is usual and what has finished."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from statistics import median
from typing import Any, Final

import msgspec

from almenara.hookspecs import Step
from almenara.sdk import mark_unknown
from almenara.signals import OBSERVED_BY, Event, Resource, Severity, Signal
from almenara_agents.kinds import DELIBERATION, SEVERITIES, SOURCE, TASK, TURN
from almenara_agents.settings import AgentsSettings

USUAL_VALUES: Final = 50
"""Durations from which the usual one is computed: the last ones."""
MIN_USUAL_VALUES: Final = 5
LIMITS: Final = {
    "agents": 5_000, "councils": 300, "tasks": 10_000, "traces": 5_000, "usual": 1_000,
    "usages": 1_000,
}  # fmt: skip
"""Records of each kind that are stored at most; what would need another one is left out."""
BLIND: Final = "blind"
"""The key of when each origin that cannot be read was observed last."""
OBSERVED: Final = "observed"
"""The key of when each origin that could not be read could be read again."""


class Publication:
    """What one step derives: signals, with the parts of the state that all derivations share."""

    def __init__(self, step: Step, settings: AgentsSettings) -> None:
        self.step, self.state, self.settings = step, step.state, settings
        self.signals: list[Signal] = []
        self.origin = ""
        """The origin of the event that is derived from; empty while time passes."""
        self._blind = self.state.get(BLIND, dict[str, int]) or {}
        self._observed = self.state.get(OBSERVED, dict[str, int]) or {}

    def resource(
        self,
        kind: str,
        name: str,
        status: str,
        state: Mapping[str, Any],
        severity: Severity | None = None,
        origin: str = "",
    ) -> None:
        """Publish a resource, unless it is the same as before.

        `origin` is what a state that may have changed since is derived from: while that cannot be
        read, the resource is unknown. What has ended has none.
        """
        known = {key: value for key, value in state.items() if value not in (None, "", [], {})}
        resource = Resource(
            kind=kind,
            name=name,
            status=status,
            severity=SEVERITIES.get(status, Severity.INFO) if severity is None else severity,
            state=known | ({OBSERVED_BY: origin} if origin else {}),
            time=self.step.time,
        )
        if origin in self._blind:
            resource = mark_blind(resource, origin, self._blind[origin])
        content = msgspec.json.encode((resource.status, resource.state), order="deterministic")
        key, digest = f"published/{kind}/{name}", blake2b(content, digest_size=8).hexdigest()
        if self.state.get(key, str) == digest:
            return
        self.state.set(key, digest)
        self.signals.append(resource)

    def delete(self, kind: str, name: str) -> None:
        """Publish a resource as deleted, if it was published."""
        key = f"published/{kind}/{name}"
        if self.state.get(key, str) is not None:
            self.state.delete(key)
            self.signals.append(Resource(kind=kind, name=name, time=self.step.time, deleted=True))

    def event(
        self, kind: str, subject: str, severity: Severity, story: str, data: dict[str, Any]
    ) -> None:
        """Publish an event."""
        self.signals.append(
            Event(
                id=self.step.event_id(kind, subject),
                source=SOURCE,
                type=kind,
                subject=subject,
                severity=severity,
                time=self.step.time,
                correlation=story or None,
                data=data,
            )
        )

    def last_sign(self, origin: str, time: int) -> int:
        """When silence counts from: the last sign of life or, where its origin could not be read
        since, when it could be read again."""
        return self.step.time if origin in self._blind else max(time, self._observed.get(origin, 0))

    def mark_blind(self, origin: str, since: int) -> None:
        """Note that the events of an origin cannot be read, since a time."""
        self._blind[origin] = since
        self.state.set(BLIND, self._blind)

    def mark_observed(self, origin: str) -> bool:
        """Note that the events of an origin can be read; whether they could not be."""
        if self._blind.pop(origin, None) is None:
            return False
        self._observed[origin] = self.step.time
        self.state.set(BLIND, self._blind)
        self.state.set(OBSERVED, self._observed)
        return True

    def admit(self, kind: str) -> bool:
        """Count one more record of a kind; False where its limit is reached."""
        count = self.state.get(f"count/{kind}", int) or 0
        if count < LIMITS[kind]:
            self.state.set(f"count/{kind}", count + 1)
            return True
        return False

    def release(self, kind: str) -> None:
        """Count one record less of a kind."""
        self.state.set(f"count/{kind}", max((self.state.get(f"count/{kind}", int) or 0) - 1, 0))

    def learn(self, role: str, step: str, seconds: float) -> None:
        """Add a duration to those of a role and a step."""
        values = self.state.get(f"usual/{step}/{role}", list[float])
        if values is None and not self.admit("usual"):
            return
        values = values or []
        self.state.set(f"usual/{step}/{role}", [*values, round(seconds, 3)][-USUAL_VALUES:])

    def usual(self, role: str, step: str) -> float | None:
        """The usual seconds of a step of a role: the median; None while too few are known."""
        values = self.state.get(f"usual/{step}/{role}", list[float]) or []
        return round(median(values), 3) if len(values) >= MIN_USUAL_VALUES else None

    def silence_limit(self, role: str, step: str) -> float:
        """The seconds of silence from which on an agent of a role is stuck in a step."""
        usual = self.usual(role, step)
        if usual is None:
            return self.settings.default_silence
        return max(usual * self.settings.stuck_factor, self.settings.min_silence)

    def close_trace(self, trace: str, turns: Sequence[str]) -> None:
        """Note that a trace has finished, and delete the oldest ones above the limit."""
        finished = self.state.get("finished traces", list[tuple[str, list[str]]]) or []
        finished.append((trace, [*turns]))
        for oldest, names in finished[: -self.settings.finished_limit]:
            self.state.delete(f"trace/{oldest}")
            self.release("traces")
            self.step.cancel_timer(f"trace/{oldest}")
            for name in names:
                self.delete(TURN, name)
        self.state.set("finished traces", finished[-self.settings.finished_limit :])

    def close_task(self, task: str) -> None:
        """Note that a task has finished, and delete the oldest ones above the limit."""
        finished = self.state.get("finished", list[str]) or []
        finished.append(task)
        for oldest in finished[: -self.settings.finished_limit]:
            self.state.delete(f"task/{oldest}")
            self.release("tasks")
            self.step.cancel_timer(f"task/{oldest}")
            self.delete(DELIBERATION, oldest)
            self.delete(TASK, oldest)
        self.state.set("finished", finished[-self.settings.finished_limit :])


def mark_blind(resource: Resource, origin: str, since: int) -> Resource:
    """The resource while the events of its origin cannot be read. What was wrong still is."""
    reason = f"{origin} is not read"
    if resource.severity >= Severity.WARN:
        before = str(resource.state.get("reason") or resource.status)
        return mark_unknown(resource, f"{before}; {reason}", since, status=resource.status)
    return mark_unknown(resource, reason, since)
