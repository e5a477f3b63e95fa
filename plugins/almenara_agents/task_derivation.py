"""Derives deliberations and tasks, and through them agents and councils."""

from collections.abc import Mapping
from typing import Any, Final

from almenara.signals import Severity
from almenara.units import SECOND
from almenara_agents.agent_derivation import load_agent, store_agent
from almenara_agents.agents import AgentRecord, CouncilRecord, Ended
from almenara_agents.kinds import (
    COUNCIL,
    DELIBERATING,
    DELIBERATION,
    DELIBERATION_FAILED,
    FAILED,
    IDLE,
    RUNNING,
    STUCK,
    TASK,
)
from almenara_agents.mapping import Fact
from almenara_agents.publication import Publication
from almenara_agents.story_derivation import add_tokens
from almenara_agents.tasks import RESPONSES, Deliberation, TaskRecord, TaskView, Work, examine
from almenara_agents.usage import add_usage

MAX_COUNCIL_MEMBERS: Final = 500
MAX_RUNNING: Final = 50
MAX_ACTIVE: Final = 10
"""Running deliberations that the resource of a council names."""
MAX_PUBLISHED_TEXT: Final = 160


def derive_task(publication: Publication, fact: Fact) -> None:
    """Derive from an event about a task."""
    record = publication.state.get(f"task/{fact.task}", TaskRecord)
    if record is None and not publication.admit("tasks"):
        return
    record = record or TaskRecord()
    before = examine(record) if record.facts else None
    if not record.add(fact):
        publication.state.set(f"task/{fact.task}", record)
        return
    view = examine(record)
    update_agents(
        publication, fact.task, fact, view, view.agents | (before.agents if before else set())
    )
    if before is not None and before.role != view.role:
        leave_council(publication, fact.task, before.role)
    if fact.step in RESPONSES:
        add_tokens(publication, view.story, fact.tokens_in + fact.tokens_out, fact.time)
    store_task(publication, fact.task, record, view)


def update_agents(
    publication: Publication, task: str, fact: Fact | None, view: TaskView, names: set[str]
) -> None:
    """Set what each agent of a task does now, and count what an agent reported."""
    assignments = view.assignments
    speaker = fact.agent if fact else ""
    for name in sorted({*names, *([speaker] if speaker else [])}):
        agent = load_agent(publication, name)
        agent.role = agent.role or ("" if view.role == "unknown" else view.role)
        agent.assign(task, assignments.get(name))
        if fact is not None and name == speaker:
            agent.hear(fact)
            count_response(agent, fact)
            if fact.step in RESPONSES:
                add_usage(
                    publication, agent, name, view.role, view.story, fact.model or agent.model,
                    fact.tokens_in, fact.tokens_out,
                )  # fmt: skip
        agent.heard = agent.heard or (fact.time if fact else publication.step.time)
        store_agent(publication, name, agent)


def count_response(agent: AgentRecord, fact: Fact) -> None:
    """Count the result that an agent reported."""
    if fact.step == "response":
        agent.completed += 1
        agent.succeeded_at = max(agent.succeeded_at, fact.time)
    elif fact.step == "response_failed":
        agent.failed += 1
        if fact.time >= agent.failed_at:
            agent.failed_at, agent.failure = fact.time, fact.text
    else:
        return
    agent.tokens_in += fact.tokens_in
    agent.tokens_out += fact.tokens_out


def store_task(publication: Publication, task: str, record: TaskRecord, view: TaskView) -> None:
    """Store and publish a task, with the timer of its silence."""
    record.origin = publication.origin or record.origin
    if view.deliberation:
        learn(publication, record, view.role, "deliberation", view.deliberation)
        publish_deliberation(publication, task, view, record.origin)
        report_failure(publication, task, record, view, view.deliberation)
        update_council(publication, task, view, view.deliberation)
    if view.work:
        learn(publication, record, view.role, "task", view.work)
        publish_work(publication, task, view, record.origin)
    if view.is_finished:
        publication.step.cancel_timer(f"task/{task}")
        if not record.closed:
            record.closed = True
            publication.state.set(f"task/{task}", record)
            publication.close_task(task)
            return
    else:
        set_task_timer(publication, task, record, view)
    publication.state.set(f"task/{task}", record)


def republish_task(publication: Publication, task: str, record: TaskRecord) -> None:
    """Publish a task that has not ended again: what is known of its origin has changed."""
    view = examine(record)
    if record.closed or view.is_finished:
        return
    publish_deliberation(publication, task, view, record.origin)
    publish_work(publication, task, view, record.origin)
    set_task_timer(publication, task, record, view)


def set_task_timer(publication: Publication, task: str, record: TaskRecord, view: TaskView) -> None:
    """Set when the silence about a task is too long."""
    step = "task" if view.work and view.work.status in (RUNNING, STUCK) else "deliberation"
    silence = (
        publication.settings.abandon_after
        if record.stuck
        else publication.silence_limit(view.role, step)
    )
    at = find_last_sign(publication, task, record, view) + int(silence * SECOND)
    publication.step.set_timer(f"task/{task}", max(at, publication.step.time))


def find_last_sign(publication: Publication, task: str, record: TaskRecord, view: TaskView) -> int:
    """When a task, or an agent that works on it, was heard of last."""
    agents = (load_agent(publication, name) for name in view.assignments)
    sign = max(
        [
            record.heard,
            *(each.assignments[task].silent_since for each in agents if task in each.assignments),
        ]
    )
    return sign if record.stuck else publication.last_sign(record.origin, sign)


def check_task(publication: Publication, task: str) -> None:
    """Mark a task that has been silent for too long as stuck, and later as abandoned."""
    record = publication.state.get(f"task/{task}", TaskRecord)
    if record is None:
        return
    view = examine(record)
    moment, sign = publication.step.time, find_last_sign(publication, task, record, view)
    step = "task" if view.work and view.work.status in (RUNNING, STUCK) else "deliberation"
    if moment >= sign + int(publication.settings.abandon_after * SECOND):
        record.abandoned = True
    elif moment >= sign + int(publication.silence_limit(view.role, step) * SECOND):
        record.stuck = True
    changed = examine(record)
    update_agents(publication, task, None, changed, changed.agents)
    store_task(publication, task, record, changed)


def learn(
    publication: Publication, record: TaskRecord, role: str, step: str, part: Deliberation | Work
) -> None:
    """Add a duration to what is usual, once for each task and step."""
    if part.ended and part.duration is not None and step not in record.learned:
        if not record.abandoned:
            publication.learn(role, step, part.duration)
        record.learned.append(step)


def report_failure(
    publication: Publication, task: str, record: TaskRecord, view: TaskView, talk: Deliberation
) -> None:
    """Publish the event of a deliberation that failed, once."""
    if talk.status != FAILED:
        record.failure_reported = False
    elif not record.failure_reported:
        record.failure_reported = True
        publication.event(
            DELIBERATION_FAILED, task, Severity.ERROR, view.story,
            {"role": view.role, "story": view.story, "reason": talk.reason},
        )  # fmt: skip


def publish_deliberation(publication: Publication, task: str, view: TaskView, origin: str) -> None:
    """Publish the resource of a deliberation, if the task has one."""
    talk = view.deliberation
    if talk is None:
        return
    dissent = sorted(
        agent for agent, choice in talk.votes.items() if talk.winner and choice != talk.winner
    )
    publication.resource(
        DELIBERATION, task, talk.status,
        {
            "role": view.role, "council": view.role, "story": view.story, "phase": talk.phase,
            "members": talk.members, "quorum": quorum(talk),
            "proposals": {name: text[:MAX_PUBLISHED_TEXT] for name, text in talk.proposals.items()},
            "failures": {name: text[:MAX_PUBLISHED_TEXT] for name, text in talk.failures.items()},
            "votes": talk.votes, "dissent": dissent, "winner": talk.winner,
            "decisions": [
                [kind, text[:MAX_PUBLISHED_TEXT]] for kind, text in talk.decisions
            ],
            "round": talk.round if talk.round > 1 else None,
            "started": talk.started, "ended": talk.ended or None, "duration": talk.duration,
            "usual": publication.usual(view.role, "deliberation"), "reason": talk.reason,
            "problem": "; ".join(talk.problems),
        },
        origin=origin if talk.status in (RUNNING, STUCK) else "",
    )  # fmt: skip


def publish_work(publication: Publication, task: str, view: TaskView, origin: str) -> None:
    """Publish the resource of a task, if there is work on it."""
    work = view.work
    if work is None:
        return
    publication.resource(
        TASK, task, work.status,
        {
            "role": view.role, "story": view.story, "agent": work.agent,
            "started": work.started or None, "ended": work.ended or None,
            "duration": work.duration, "usual": publication.usual(view.role, "task"),
            "reason": work.reason, "problem": "; ".join(work.problems),
        },
        origin=origin if work.status in (RUNNING, STUCK) else "",
    )  # fmt: skip


def quorum(talk: Deliberation) -> str:
    """How many members have answered: `2/3`."""
    return f"{len(talk.proposals.keys() | talk.failures.keys())}/{talk.size}"


def update_council(publication: Publication, task: str, view: TaskView, talk: Deliberation) -> None:
    """Derive the council of a role from one of its deliberations."""
    name = view.role
    council = publication.state.get(f"council/{name}", CouncilRecord)
    if council is None and not publication.admit("councils"):
        return
    council = council or CouncilRecord()
    council.origin = publication.origin or council.origin
    for member in talk.members:
        council.members[member] = publication.step.time
    while len(council.members) > MAX_COUNCIL_MEMBERS:
        del council.members[min(council.members, key=lambda each: (council.members[each], each))]
    if talk.status in (RUNNING, STUCK):
        council.running[task] = {
            "status": talk.status, "phase": talk.phase, "quorum": quorum(talk),
            "started": talk.started,
        }  # fmt: skip
        while len(council.running) > MAX_RUNNING:
            del council.running[next(iter(council.running))]
    else:
        council.running.pop(task, None)
        if council.last is None or council.last.id == task or talk.ended >= council.last.time:
            council.last = Ended(task, talk.ended, talk.status, talk.winner)
    publication.state.set(f"council/{name}", council)
    publish_council(publication, name, council)


def leave_council(publication: Publication, task: str, name: str) -> None:
    """Remove a deliberation from a council, as a later event has reported another role."""
    council = publication.state.get(f"council/{name}", CouncilRecord)
    if council is None:
        return
    council.running.pop(task, None)
    if not council.running and (council.last is None or council.last.id == task):
        publication.state.delete(f"council/{name}")
        publication.release("councils")
        publication.delete(COUNCIL, name)
        return
    publication.state.set(f"council/{name}", council)
    publish_council(publication, name, council)


def publish_council(publication: Publication, name: str, council: CouncilRecord) -> None:
    """Publish the resource of a council."""
    running, last = council.running, council.last
    stuck = [task for task, each in running.items() if each["status"] == STUCK]
    newest = max(running, key=lambda task: (running[task]["started"], task), default="")
    current = stuck[0] if stuck else newest
    status = STUCK if stuck else DELIBERATING if running else IDLE
    if not running and last and last.status == FAILED:
        status = FAILED
    publication.resource(
        COUNCIL, name, status,
        {
            "role": name, "members": sorted(council.members), "deliberations": len(running),
            "deliberation": current, "phase": running[current]["phase"] if current else "",
            "quorum": running[current]["quorum"] if current else "",
            "active": list_active(running),
            "last": last.id if last else "", "last_status": last.status if last else "",
            "winner": last.winner if last else "",
        },
        origin=council.origin,
    )  # fmt: skip


def remove_member(publication: Publication, agent: str) -> None:
    """Remove a deleted agent from the councils."""
    for key in publication.state.keys("council/"):
        council = publication.state.get(key, CouncilRecord)
        if council is not None and council.members.pop(agent, None) is not None:
            publication.state.set(key, council)
            publish_council(publication, key.removeprefix("council/"), council)


def list_active(running: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The running deliberations of a council: the newest first, and those that are stuck last."""

    def order(task: str) -> tuple[bool, int, str]:
        return running[task]["status"] == STUCK, -running[task]["started"], task

    return sorted(running, key=order)[:MAX_ACTIVE]
