"""The panels and the page of the plugin."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from almenara.hookspecs import (
    DataView,
    EventQuery,
    EventsPanel,
    Filter,
    Page,
    Panel,
    ResourceQuery,
    TemplatePanel,
)
from almenara.sdk import now
from almenara.signals import Resource
from almenara.units import SECOND
from almenara_agents.kinds import (
    AGENT,
    COUNCIL,
    DELIBERATING,
    DELIBERATION,
    FAILED,
    IDLE,
    ORDER,
    RUNNING,
    STORY,
    STUCK,
    WAITING,
    WORKING,
)

MAX_ROWS: Final = 200
MAX_DELIBERATIONS: Final = 20
MAX_CARDS: Final = 8
COUNCIL_ORDER: Final = (STUCK, FAILED, DELIBERATING, IDLE)
PHASES: Final = (
    "created", "DRAFT", "PLANNED", "BUILD", "IN_PROGRESS", "TEST", "REVIEW", "DONE", "COMPLETED",
    "CANCELLED",
)  # fmt: skip
"""How columns of the board are sorted; other phases are behind these, by name."""
ROLE: Final = Filter(name="role", label="Role", hint="DEV")
STATUS: Final = Filter(name="status", label="Agent status", choices=ORDER)


def list_panels() -> Sequence[Panel]:
    """The panels."""
    return [
        TemplatePanel(
            name="overview", title="Agents", template="agents_overview.html", width=12,
            query=ResourceQuery(kind="agents.*"), prepare=prepare_overview, on_overview=True,
            empty="No agent was reported yet.",
        ),
        TemplatePanel(
            name="councils", title="Councils", template="agents_councils.html", width=12,
            query=ResourceQuery(kind="agents.*"), prepare=prepare_councils, refresh=5.0,
            filters=[ROLE],
            empty="No deliberation was reported yet. Councils appear with the first event of one.",
        ),
        TemplatePanel(
            name="agents", title="Agents", template="agents_agents.html", width=12,
            query=ResourceQuery(kind=AGENT), prepare=prepare_agents, refresh=5.0,
            filters=[ROLE, STATUS], empty="No agent was reported yet.",
        ),
        TemplatePanel(
            name="deliberations", title="Deliberations", template="agents_deliberations.html",
            width=12, query=ResourceQuery(kind=DELIBERATION), prepare=prepare_deliberations,
            refresh=5.0, filters=[ROLE], empty="No deliberation was reported yet.",
        ),
        TemplatePanel(
            name="stories", title="Stories", template="agents_stories.html", width=12,
            query=ResourceQuery(kind=STORY), prepare=prepare_stories, refresh=10.0,
            empty="No story was reported yet.",
        ),
        EventsPanel(
            name="trouble", title="Stuck agents, loops and failed deliberations", width=12,
            query=EventQuery(filter={"type": "agents.>"}, limit=20),
            filters=["severity", "subject"], empty="No agent was stuck.",
        ),
    ]  # fmt: skip


def list_pages() -> Sequence[Page]:
    """The page of the plugin."""
    names = [panel.name for panel in list_panels() if not panel.on_overview]
    return [
        Page(name="main", title="Agents", panels=names, navigation=True, filters=[ROLE, STATUS])
    ]


def has_role(resource: Resource, filters: Mapping[str, str]) -> bool:
    """Whether a resource is of the role in the filter."""
    role = filters.get("role", "")
    return not role or str(resource.state.get("role", "")).lower() == role.lower()


def seconds_since(time: Any) -> float | None:
    """The seconds since a time in microseconds."""
    return max((now() - time) / SECOND, 0.0) if isinstance(time, int) else None


def compare(seconds: float | None, usual: Any) -> dict[str, Any]:
    """A duration beside the usual one, and how far a bar of twice the usual is filled."""
    share = None
    if seconds is not None and isinstance(usual, int | float) and usual > 0:
        share = min(seconds / (2 * usual), 1.0)
    return {"seconds": seconds, "usual": usual, "share": share, "slow": bool(share and share >= 1)}


def position(order: Sequence[str], status: str) -> int:
    """The place of a status in an order; unknown ones are last."""
    return order.index(status) if status in order else len(order)


async def prepare_overview(data: DataView, filters: Mapping[str, str]) -> Mapping[str, Any]:
    """Counts of agents and deliberations, with links to them."""
    agents = Counter(each.status for each in data.resources(ResourceQuery(kind=AGENT, limit=5_000)))
    talks = Counter(
        each.status for each in data.resources(ResourceQuery(kind=DELIBERATION, limit=10_000))
    )
    counts = (
        (agents[STUCK], "stuck agents", f"?status={STUCK}", "warn"),
        (agents[FAILED], "failed agents", f"?status={FAILED}", "bad"),
        (agents[WORKING] + agents[WAITING], f"active agents (of {agents.total()})", "", ""),
        (talks[RUNNING] + talks[STUCK], "running deliberations", "", ""),
    )
    return {
        "any": bool(agents or talks),
        "figures": [
            {"value": value, "label": label, "link": f"/dashboards/agents{query}",
             "worry": worry if value else ""}
            for value, label, query, worry in counts
        ],
    }  # fmt: skip


async def prepare_councils(data: DataView, filters: Mapping[str, str]) -> Mapping[str, Any]:
    """The councils, those with trouble first, each with its members and its deliberation."""
    agents = {each.name: each for each in data.resources(ResourceQuery(kind=AGENT, limit=5_000))}
    rows = []
    for council in data.resources(ResourceQuery(kind=COUNCIL, limit=MAX_ROWS)):
        if not has_role(council, filters):
            continue
        members = [agents[name] for name in council.state.get("members", ()) if name in agents]
        members.sort(key=lambda each: (position(ORDER, each.status), each.name))
        shown = council.state.get("deliberation") or council.state.get("last") or ""
        deliberation = data.resource(DELIBERATION, "", shown) if shown else None
        worst = min((position(ORDER, each.status) for each in members), default=len(ORDER))
        rows.append(
            {
                "name": council.name,
                "status": council.status,
                "severity": council.severity.name,
                "worst": max((council, *members), key=lambda each: each.severity).severity.name,
                "running": council.state.get("deliberations", 0),
                "members": [describe_agent(each) for each in members],
                "counts": [
                    (status, count)
                    for status in ORDER
                    if (count := sum(each.status == status for each in members))
                ],
                "deliberation": describe_deliberation(deliberation) if deliberation else None,
                "order": (worst > 1, position(COUNCIL_ORDER, council.status), council.name),
            }
        )
    rows.sort(key=lambda row: row["order"])
    return {"rows": rows, "statuses": ORDER}


async def prepare_agents(data: DataView, filters: Mapping[str, str]) -> Mapping[str, Any]:
    """The agents, those with trouble first."""
    agents = [
        each
        for each in data.resources(ResourceQuery(kind=AGENT, limit=5_000))
        if has_role(each, filters) and filters.get("status") in (None, "", each.status)
    ]
    agents.sort(key=lambda each: (position(ORDER, each.status), each.state.get("role"), each.name))
    rows = [describe_agent(each) for each in agents[:MAX_ROWS]]
    return {"rows": rows, "hidden": len(agents) - len(rows)}


async def prepare_deliberations(data: DataView, filters: Mapping[str, str]) -> Mapping[str, Any]:
    """Running deliberations, then the last that have ended."""
    all_of_role = [
        each
        for each in data.resources(ResourceQuery(kind=DELIBERATION, limit=10_000))
        if has_role(each, filters)
    ]
    all_of_role.sort(
        key=lambda each: (
            each.status != STUCK,
            each.status != RUNNING,
            -(each.state.get("ended") or each.state.get("started") or 0),
        )
    )
    return {"rows": [describe_deliberation(each) for each in all_of_role[:MAX_DELIBERATIONS]]}


async def prepare_stories(data: DataView, filters: Mapping[str, str]) -> Mapping[str, Any]:
    """The stories by phase: those that have been in it for longest first."""
    columns: dict[str, list[Resource]] = {}
    for story in data.resources(ResourceQuery(kind=STORY, limit=5_000)):
        columns.setdefault(story.status, []).append(story)
    return {
        "columns": [
            describe_column(phase, columns[phase])
            for phase in sorted(columns, key=lambda each: (position(PHASES, each), each))
        ]
    }


def describe_column(phase: str, stories: list[Resource]) -> dict[str, Any]:
    """A column of the board; of final phases, the newest stories are first."""
    is_final = position(PHASES, phase) >= PHASES.index("DONE") and phase in PHASES
    stories.sort(key=lambda each: each.state.get("since") or 0, reverse=is_final)
    return {
        "phase": phase,
        "count": len(stories),
        "hidden": max(len(stories) - MAX_CARDS, 0),
        "cards": [
            {
                "name": each.name,
                "title": each.state.get("title", ""),
                "since": each.state.get("since"),
                "age": seconds_since(each.state.get("since")),
                "tokens": each.state.get("tokens"),
                "problem": each.state.get("problem", ""),
            }
            for each in stories[:MAX_CARDS]
        ],
    }


def describe_agent(agent: Resource) -> dict[str, Any]:
    """The row of an agent."""
    state = agent.state
    elapsed = seconds_since(state.get("step_since") or state.get("since"))
    return {
        "name": agent.name,
        "status": agent.status,
        "severity": agent.severity.name,
        "role": state.get("role", ""),
        "task": state.get("task", ""),
        "step": state.get("step", ""),
        "story": state.get("story", ""),
        "model": state.get("model", ""),
        "tokens": state.get("tokens"),
        "completed": state.get("completed", 0),
        "failed": state.get("failed", 0),
        "reason": state.get("reason", ""),
        "silence": seconds_since(state.get("silent_since")),
        "time": compare(elapsed, state.get("usual")),
    }


def describe_deliberation(deliberation: Resource) -> dict[str, Any]:
    """The row of a deliberation."""
    state = deliberation.state
    is_running = deliberation.status in (RUNNING, STUCK)
    seconds = seconds_since(state.get("started")) if is_running else state.get("duration")
    proposals, votes = state.get("proposals", {}), state.get("votes", {})
    failures, dissent = state.get("failures", {}), state.get("dissent", ())
    return {
        "name": deliberation.name,
        "status": deliberation.status,
        "severity": deliberation.severity.name,
        "is_running": is_running,
        "role": state.get("role", ""),
        "story": state.get("story", ""),
        "phase": state.get("phase", ""),
        "quorum": state.get("quorum", ""),
        "started": state.get("started"),
        "ended": state.get("ended"),
        "answered": bool(proposals or failures),
        "winner": state.get("winner", ""),
        "votes": votes,
        "dissent": dissent,
        "reason": state.get("reason", ""),
        "problem": state.get("problem", ""),
        "time": compare(seconds, state.get("usual")),
        "members": [
            {
                "name": name,
                "proposal": proposals.get(name, ""),
                "failure": failures.get(name, ""),
                "vote": votes.get(name, ""),
                "answered": name in proposals or name in failures,
                "dissents": name in dissent,
                "wins": name == state.get("winner"),
            }
            for name in state.get("members", ())
        ],
    }
