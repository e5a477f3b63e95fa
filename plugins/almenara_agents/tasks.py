"""What the facts about one task say together: its deliberation, and the work that follows.

Facts arrive late, in another order and more than once. So all of a task are stored, and what they
say is computed from them in the order of their times: the result does not depend on the order of
arrival.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from almenara.units import SECOND
from almenara_agents.kinds import (
    COMPLETED,
    FAILED,
    LOST,
    RUNNING,
    STUCK,
    UNCERTAIN,
    WAITING,
    WORKING,
)
from almenara_agents.mapping import UNKNOWN_ROLE, Fact

MAX_FACTS: Final = 300
"""Facts about a task that are stored; further ones are left out, and that is marked."""
CLOCK_SKEW: Final = SECOND
"""Microseconds by which the clocks of publishers may differ."""
OUTCOMES: Final = ("deliberation_completed", "deliberation_failed")
DELIBERATION: Final = ("deliberation_started", "proposal", "vote", *OUTCOMES)
RESPONSES: Final = ("response", "response_failed")


class TaskRecord(msgspec.Struct, omit_defaults=True):
    """The facts about a task, and what was derived when time passed."""

    facts: list[Fact] = []
    heard: int = 0
    """The newest time of a fact."""
    stuck: bool = False
    abandoned: bool = False
    is_truncated: bool = False
    learned: list[str] = []
    """Steps whose duration is already part of what is usual."""
    failure_reported: bool = False
    closed: bool = False
    origin: str = ""
    """Where the newest event about it is from."""

    def add(self, fact: Fact) -> bool:
        """Add a fact; whether it is a new one."""
        if any(
            msgspec.structs.replace(fact, sequence=each.sequence) == each for each in self.facts
        ):
            return False
        if len(self.facts) >= MAX_FACTS:
            self.is_truncated = True
            return False
        self.facts.append(fact)
        self.facts.sort(key=lambda each: (each.time, each.sequence))
        self.heard = max(self.heard, fact.time)
        self.stuck = self.abandoned = False
        return True


class Deliberation(msgspec.Struct):
    """A deliberation; times are microseconds, 0 where they are unknown."""

    status: str = RUNNING
    phase: str = "proposals"
    members: list[str] = []
    size: int = 0
    started: int = 0
    ended: int = 0
    duration: float | None = None
    proposals: dict[str, str] = {}
    failures: dict[str, str] = {}
    votes: dict[str, str] = {}
    winner: str = ""
    decisions: list[tuple[str, str]] = []
    round: int = 1
    reason: str = ""
    problems: list[str] = []


class Work(msgspec.Struct):
    """The work of one agent on a task."""

    status: str = RUNNING
    agent: str = ""
    started: int = 0
    ended: int = 0
    duration: float | None = None
    reason: str = ""
    problems: list[str] = []


class Assignment(msgspec.Struct, omit_defaults=True):
    """What an agent does for one task."""

    step: str
    state: str
    since: int
    story: str = ""
    heard: int = 0
    """The newest sign of life of the agent that is about the task."""
    stuck: bool = False

    @property
    def silent_since(self) -> int:
        return max(self.since, self.heard)


class TaskView(msgspec.Struct):
    """What the facts about a task say."""

    role: str
    story: str
    deliberation: Deliberation | None
    work: Work | None

    @property
    def is_finished(self) -> bool:
        return all(
            part is None or part.status not in (RUNNING, STUCK)
            for part in (self.deliberation, self.work)
        )

    @property
    def assignments(self) -> dict[str, Assignment]:
        """What each agent does now."""
        assignments = {}
        if (talk := self.deliberation) and talk.status in (RUNNING, STUCK):
            for member in talk.members:
                answered = member in talk.proposals or member in talk.failures
                assignments[member] = Assignment(
                    "deliberation", WAITING if answered else WORKING, talk.started, self.story
                )
        if (work := self.work) and work.status in (RUNNING, STUCK) and work.agent:
            assignments[work.agent] = Assignment("task", WORKING, work.started, self.story)
        return assignments

    @property
    def agents(self) -> set[str]:
        """Everyone who takes part."""
        members = self.deliberation.members if self.deliberation else []
        return {*members, *([self.work.agent] if self.work and self.work.agent else [])}


def examine(record: TaskRecord) -> TaskView:
    """Compute what the facts about a task say."""
    facts = select_round(record.facts)
    role = last_of([fact.role for fact in facts if fact.step != "vote"])
    talk_facts = [fact for fact in facts if fact.step in DELIBERATION]
    dispatch = next((fact for fact in facts if fact.step == "task_dispatched"), None)
    outcome = find_outcome(facts)
    results = find_results(facts, dispatch, outcome, has_talk=bool(talk_facts))
    answers = [
        fact
        for fact in facts
        if fact.step == "proposal" or (fact.step in RESPONSES and fact not in results)
    ]
    deliberation = None
    if talk_facts or answers:
        deliberation = examine_deliberation(record, talk_facts, answers, outcome)
    work = None
    if dispatch or results:
        work = examine_work(record, dispatch, results)
        if not work.agent and deliberation:
            work.agent = deliberation.winner
    return TaskView(
        role=role or UNKNOWN_ROLE,
        story=last_of([fact.story for fact in facts]),
        deliberation=deliberation,
        work=work,
    )


def select_round(facts: Sequence[Fact]) -> Sequence[Fact]:
    """The facts since a deliberation was started again, after one that had ended."""
    starts = [fact for fact in facts if fact.step == "deliberation_started"]
    if not starts:
        return facts
    newest = starts[-1].time
    before = newest - CLOCK_SKEW
    was_started = starts[0].time < before
    has_ended = any(fact.step in OUTCOMES and fact.time < before for fact in facts)
    return [fact for fact in facts if fact.time >= newest] if was_started and has_ended else facts


def find_outcome(facts: Sequence[Fact]) -> Fact | None:
    """The end of a deliberation: what was reported last, when it was first reported."""
    last = next((fact for fact in reversed(facts) if fact.step in OUTCOMES), None)
    return next((fact for fact in facts if last and fact.step == last.step), None)


def last_of(texts: Sequence[str]) -> str:
    """The last that is not empty."""
    return next((text for text in reversed(texts) if text), "")


def find_results(
    facts: Sequence[Fact], dispatch: Fact | None, outcome: Fact | None, *, has_talk: bool
) -> list[Fact]:
    """The responses that are results of the work, and not proposals of a deliberation.

    Clocks differ, and events of several streams are not in order. So a response shortly before the
    end of the deliberation is a result if its agent had responded before, or if it came later.
    """
    responses = [fact for fact in facts if fact.step in RESPONSES]
    end = outcome or dispatch
    if not has_talk:
        return responses
    if end is None:
        return []
    worker = (dispatch.agent if dispatch else "") or (outcome.winner if outcome else "")
    results, has_responded = [], set()
    for fact in responses:
        is_worker = not worker or fact.agent in ("", worker)
        is_close = fact.time > end.time - CLOCK_SKEW and (
            fact.agent in has_responded or fact.sequence > end.sequence
        )
        if is_worker and (fact.time > end.time or is_close):
            results.append(fact)
        has_responded.add(fact.agent)
    return results


def examine_deliberation(
    record: TaskRecord, facts: Sequence[Fact], answers: Sequence[Fact], outcome: Fact | None
) -> Deliberation:
    """Compute a deliberation from its facts and the answers of its members."""
    start = next((fact for fact in facts if fact.step == "deliberation_started"), None)
    listed = start.members if start else ()
    voters = [fact.agent for fact in facts if fact.step == "vote"]
    members = dict.fromkeys([*listed, *(fact.agent for fact in answers if fact.agent), *voters])
    talk = Deliberation(
        members=list(members),
        size=max([len(listed), *(fact.size for fact in [*facts, *answers])]),
        started=start.time if start else min(fact.time for fact in [*facts, *answers]),
        round=max(1, sum(fact.step == "deliberation_started" for fact in record.facts)),
    )
    for fact in answers:
        if fact.step == "response_failed":
            talk.failures[fact.agent] = fact.text
        elif fact.agent:
            talk.proposals[fact.agent] = fact.text
            talk.failures.pop(fact.agent, None)
    talk.votes = {fact.agent: fact.winner for fact in facts if fact.step == "vote"}
    if talk.votes:
        talk.phase = "votes"
    talk.size = max(talk.size, len(listed) or len(members))
    if outcome is not None:
        finish(talk, outcome, facts, listed)
    elif talk.size and len(talk.failures) >= talk.size:
        talk.status, talk.phase = FAILED, "ended"
        talk.reason = f"each of its {talk.size} members failed"
        talk.ended = max(fact.time for fact in answers)
    elif record.abandoned:
        talk.status, talk.phase = FAILED, "ended"
        talk.reason, talk.ended = "no end was reported", record.heard
    elif record.stuck:
        talk.status = STUCK
    if start is None:
        talk.problems.append("no start was reported")
    elif talk.ended and talk.ended >= talk.started:
        talk.duration = (talk.ended - talk.started) / SECOND
    elif talk.ended and talk.ended < talk.started - CLOCK_SKEW:
        talk.problems.append("its end is before its start")
    if talk.duration is None and outcome is not None:
        talk.duration = outcome.duration
    if record.is_truncated:
        talk.problems.append(f"more than {MAX_FACTS} events; later ones are left out")
    return talk


def finish(talk: Deliberation, outcome: Fact, facts: Sequence[Fact], listed: Sequence[str]) -> None:
    """Set the end of a deliberation. A winner that its events leave open is not guessed."""
    talk.ended, talk.phase = outcome.time, "ended"
    talk.decisions = list(outcome.decisions)
    if outcome.step == "deliberation_failed":
        talk.status, talk.reason = FAILED, outcome.text or "reported as failed"
        return
    winners = sorted({fact.winner for fact in facts if fact.step == outcome.step and fact.winner})
    talk.status = COMPLETED
    if not winners:
        talk.problems.append("no winner was reported")
    elif len(winners) > 1:
        talk.problems.append(f"several winners were reported: {', '.join(winners[:5])}")
    elif listed and winners[0] not in listed:
        talk.problems.append(f"the reported winner {winners[0]} is not a member")
    else:
        talk.winner = winners[0]
    if not talk.winner:
        talk.status = UNCERTAIN


def examine_work(record: TaskRecord, dispatch: Fact | None, results: Sequence[Fact]) -> Work:
    """Compute the work on a task from its dispatch and its results."""
    result = results[-1] if results else None
    work = Work(
        agent=(dispatch.agent if dispatch else "") or (result.agent if result else ""),
        started=dispatch.time if dispatch else 0,
    )
    if result is not None:
        work.status = FAILED if result.step == "response_failed" else COMPLETED
        work.ended, work.duration = result.time, result.duration
        work.reason = result.text if work.status == FAILED else ""
        if dispatch is None:
            work.problems.append("no start was reported")
        elif result.time >= dispatch.time:
            work.duration = (result.time - dispatch.time) / SECOND
    elif record.abandoned:
        work.status, work.ended, work.reason = LOST, record.heard, "no end was reported"
    elif record.stuck:
        work.status = STUCK
    return work
