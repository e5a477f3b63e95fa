"""What is stored about each agent, council and story, and what it says."""

from typing import Any, Final

import msgspec

from almenara_agents.kinds import FAILED, IDLE, STUCK, WAITING, WORKING
from almenara_agents.mapping import Fact
from almenara_agents.tasks import Assignment

GENERATION: Final = "generation"
"""The key of the assignment that is a stream of tokens."""
MAX_ASSIGNMENTS: Final = 50
MAX_PHASES: Final = 50


class AgentRecord(msgspec.Struct, omit_defaults=True):
    """What is stored about an agent."""

    role: str = ""
    story: str = ""
    model: str = ""
    heard: int = 0
    origin: str = ""
    """Where the newest event about it is from."""
    status: str = IDLE
    since: int = 0
    assignments: dict[str, Assignment] = {}
    """By task."""
    succeeded_at: int = 0
    failed_at: int = 0
    failure: str = ""
    completed: int = 0
    failed: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    streamed: int = 0
    cost: float = 0.0
    generation_ended: int = 0
    call: str = ""
    """The last tool call."""
    calls: int = 0
    """How often it was repeated."""

    def assign(self, key: str, assignment: Assignment | None) -> None:
        """Set or end what the agent does for a task."""
        current = self.assignments.get(key)
        if assignment is None:
            self.assignments.pop(key, None)
            return
        same = current is not None and (current.step, current.state) == (
            assignment.step,
            assignment.state,
        )
        if current is not None and same:
            assignment.stuck, assignment.heard = current.stuck, current.heard
        self.assignments[key] = assignment
        while len(self.assignments) > MAX_ASSIGNMENTS:
            self.assignments.pop(min(self.assignments, key=lambda k: self.assignments[k].since))

    def hear(self, fact: Fact) -> None:
        """Note a sign of life, and what it says about the agent."""
        self.heard = max(self.heard, fact.time)
        self.role, self.model = fact.role or self.role, fact.model or self.model
        self.story = fact.story or self.story
        for key, assignment in self.assignments.items():
            if key == fact.task or (not fact.task and fact.story in ("", assignment.story)):
                assignment.heard = max(assignment.heard, fact.time)

    def compute_status(self) -> str:
        """The status that follows from what the agent does: the worst first."""
        active = self.assignments.values()
        if any(each.stuck for each in active):
            return STUCK
        for status in (WORKING, WAITING):
            if any(each.state == status for each in active):
                return status
        return FAILED if self.failed_at > self.succeeded_at else IDLE

    def update_status(self, time: int) -> None:
        """Set the status, and since when it is so."""
        status = self.compute_status()
        if status != self.status or not self.since:
            self.status, self.since = status, time

    def current(self) -> tuple[str, Assignment] | None:
        """The task that the status is about, with its assignment: stuck first, then the newest."""
        if not self.assignments:
            return None
        return max(
            self.assignments.items(),
            key=lambda item: (item[1].stuck, item[1].state == WORKING, item[1].since, item[0]),
        )

    def count_call(self, call: str) -> int:
        """Count a tool call; how often it was made in a row."""
        self.calls = self.calls + 1 if call == self.call else 1
        self.call = call
        return self.calls


class Ended(msgspec.Struct, omit_defaults=True):
    """The last deliberation of a council that has ended."""

    id: str
    time: int
    status: str
    winner: str = ""


class CouncilRecord(msgspec.Struct, omit_defaults=True):
    """What is stored about the council of a role."""

    members: dict[str, int] = {}
    """When each was heard last, in the terms of the log."""
    running: dict[str, dict[str, Any]] = {}
    """Phase, status and quorum of the running deliberations."""
    last: Ended | None = None
    origin: str = ""


class StoryRecord(msgspec.Struct, omit_defaults=True):
    """What is stored about a story."""

    title: str = ""
    created: int = 0
    phases: list[tuple[int, int, str]] = []
    """Time, sequence and name, oldest first."""
    heard: int = 0
    tokens: int = 0
    cost: float = 0.0
    origin: str = ""

    def add(self, fact: Fact) -> None:
        """Add what a fact reports."""
        self.heard = max(self.heard, fact.time)
        self.title = fact.title or self.title
        if fact.step == "story_created":
            self.created = min(self.created or fact.time, fact.time)
        elif fact.step == "story_moved" and all(
            (fact.time, fact.phase) != (time, phase) for time, _, phase in self.phases
        ):
            self.phases = sorted([*self.phases, (fact.time, fact.sequence, fact.phase)])
            self.phases = self.phases[-MAX_PHASES:]
