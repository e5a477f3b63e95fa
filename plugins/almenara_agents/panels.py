"""The panels and the page of the plugin."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
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
from almenara.signals import STALE_SINCE, UNKNOWN, Resource
from almenara_agents.describe import (
    MAX_COUNCILS,
    compare,
    describe_agent,
    describe_deliberation,
    find_blind,
    has_role,
    last_status,
    position,
    seconds_since,
)
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
    TURN,
    USAGE,
    WAITING,
    WORKING,
)
from almenara_agents.room import describe_turn, prepare_room
from almenara_agents.settings import AgentsSettings

MAX_ROWS: Final = 200
MAX_DELIBERATIONS: Final = 20
MAX_CARDS: Final = 8
MAX_TROUBLE: Final = 5
"""Members of a council whose trouble is described."""
MAX_COST_ROWS: Final = 8
COUNCIL_ORDER: Final = (STUCK, FAILED, UNKNOWN, DELIBERATING, IDLE)
TROUBLE: Final = (STUCK, FAILED, UNKNOWN)
PHASES: Final = (
    "created", "DRAFT", "PLANNED", "BUILD", "IN_PROGRESS", "TEST", "REVIEW", "DONE", "COMPLETED",
    "CANCELLED",
)  # fmt: skip
"""How columns of the board are sorted; other phases are behind these, by name."""
COUNCIL_NAME: Final = Filter(name="council", label="Council", hint="DEV")
DELIBERATION_NAME: Final = Filter(name="deliberation", label="Deliberation", hint="the current one")
ROLE: Final = Filter(name="role", label="Role", hint="DEV")
STATUS: Final = Filter(name="status", label="Agent status", choices=ORDER)


def list_panels(settings: AgentsSettings) -> Sequence[Panel]:
    """The panels."""
    return [
        TemplatePanel(
            name="room", title="Deliberation", template="agents_room.html", width=12,
            query=ResourceQuery(kind="agents.*"), prepare=prepare_room, texts="tokens",
            refresh=5.0, filters=[COUNCIL_NAME, DELIBERATION_NAME],
            empty="No council of this name has deliberated yet.",
        ),
        TemplatePanel(
            name="overview", title="Agents", template="agents_overview.html", width=6,
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
            name="turns", title="Turns", template="agents_turns.html", width=12,
            query=ResourceQuery(kind=TURN), prepare=prepare_turns, texts="turns", refresh=5.0,
            empty="No agent has sent spans of OpenTelemetry yet.",
        ),
        TemplatePanel(
            name="stories", title="Stories", template="agents_stories.html", width=12,
            query=ResourceQuery(kind=STORY), refresh=10.0,
            prepare=partial(prepare_stories, settings.currency),
            empty="No story was reported yet.",
        ),
        TemplatePanel(
            name="cost", title="Tokens and cost", template="agents_cost.html", width=12,
            query=ResourceQuery(kind=USAGE), prepare=partial(prepare_cost, settings.currency),
            empty="No tokens were reported yet.",
        ),
        EventsPanel(
            name="trouble", title="Stuck agents, loops, refusals and failures", width=12,
            query=EventQuery(filter={"type": "agents.>", "severity": "WARN"}, limit=20),
            filters=["severity", "subject"], empty="No agent was stuck.",
        ),
    ]  # fmt: skip


def list_pages(settings: AgentsSettings) -> Sequence[Page]:
    """The main page of the plugin, and the room of one council."""
    names = [
        panel.name
        for panel in list_panels(settings)
        if not panel.on_overview and panel.name != "room"
    ]
    return [
        Page(name="main", title="Agents", panels=names, navigation=True, filters=[ROLE, STATUS]),
        Page(
            name="room", title="Council room", panels=["room"],
            filters=[COUNCIL_NAME, DELIBERATION_NAME],
        ),
    ]  # fmt: skip


async def prepare_overview(data: DataView, filters: Mapping[str, str]) -> Mapping[str, Any]:
    """Counts of agents and deliberations, with links to them."""
    agents = Counter(each.status for each in data.resources(ResourceQuery(kind=AGENT, limit=5_000)))
    talks = Counter(
        each.status for each in data.resources(ResourceQuery(kind=DELIBERATION, limit=10_000))
    )
    counts = (
        (agents[STUCK], "stuck agents", f"?status={STUCK}", "warn"),
        (agents[FAILED], "failed agents", f"?status={FAILED}", "bad"),
        *(
            [(agents[UNKNOWN], "agents not observed", f"?status={UNKNOWN}", "warn")]
            if agents[UNKNOWN]
            else []
        ),
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
    for council in data.resources(ResourceQuery(kind=COUNCIL, limit=MAX_COUNCILS)):
        if not has_role(council, filters):
            continue
        members = [agents[name] for name in council.state.get("members", ()) if name in agents]
        members.sort(key=lambda each: (position(ORDER, each.status), each.name))
        shown = council.state.get("deliberation") or council.state.get("last") or ""
        deliberation = data.resource(DELIBERATION, "", shown) if shown else None
        has_trouble = any(each.status in TROUBLE for each in members)
        rows.append(
            {
                "name": council.name,
                "status": council.status,
                "severity": council.severity.name,
                "worst": max((council, *members), key=lambda each: each.severity).severity.name,
                "running": council.state.get("deliberations", 0),
                "members": [describe_agent(each) for each in members],
                "trouble": [
                    describe_agent(each) for each in members if each.status in (STUCK, FAILED)
                ][:MAX_TROUBLE],
                "counts": [
                    (status, count)
                    for status in ORDER
                    if (count := sum(each.status == status for each in members))
                ],
                "deliberation": describe_deliberation(deliberation) if deliberation else None,
                "order": (not has_trouble, position(COUNCIL_ORDER, council.status), council.name),
            }
        )
    rows.sort(key=lambda row: row["order"])
    return {
        "rows": rows[:MAX_ROWS], "hidden": max(len(rows) - MAX_ROWS, 0), "statuses": ORDER,
        "blind": find_blind([*agents.values()]),
    }  # fmt: skip


async def prepare_agents(data: DataView, filters: Mapping[str, str]) -> Mapping[str, Any]:
    """The agents, those with trouble first."""
    agents = [
        each
        for each in data.resources(ResourceQuery(kind=AGENT, limit=5_000))
        if has_role(each, filters) and filters.get("status") in (None, "", each.status)
    ]
    agents.sort(key=lambda each: (position(ORDER, each.status), each.state.get("role"), each.name))
    rows = [describe_agent(each) for each in agents[:MAX_ROWS]]
    return {"rows": rows, "hidden": len(agents) - len(rows), "blind": find_blind(agents)}


async def prepare_deliberations(data: DataView, filters: Mapping[str, str]) -> Mapping[str, Any]:
    """Running deliberations, then the last that have ended."""
    all_of_role = [
        each
        for each in data.resources(ResourceQuery(kind=DELIBERATION, limit=10_000))
        if has_role(each, filters)
    ]
    all_of_role.sort(
        key=lambda each: (
            last_status(each) != STUCK,
            last_status(each) != RUNNING,
            -(each.state.get("ended") or each.state.get("started") or 0),
        )
    )
    return {
        "rows": [describe_deliberation(each) for each in all_of_role[:MAX_DELIBERATIONS]],
        "blind": find_blind(all_of_role),
    }


async def prepare_stories(
    currency: str, data: DataView, filters: Mapping[str, str]
) -> Mapping[str, Any]:
    """The stories by phase: those that have been in it for longest first."""
    columns: dict[str, list[Resource]] = {}
    stories = data.resources(ResourceQuery(kind=STORY, limit=5_000))
    for story in stories:
        columns.setdefault(last_status(story), []).append(story)
    return {
        "blind": find_blind(stories),
        "currency": currency,
        "columns": [
            describe_column(phase, columns[phase])
            for phase in sorted(columns, key=lambda each: (position(PHASES, each), each))
        ],
    }


async def prepare_turns(data: DataView, filters: Mapping[str, str]) -> Mapping[str, Any]:
    """Running turns, then the last that have ended."""
    turns = list(data.resources(ResourceQuery(kind=TURN, limit=10_000)))
    turns.sort(key=lambda each: (each.status != RUNNING, -(each.state.get("started") or 0)))
    rows = [
        {**describe_turn(turn), "agent": str(turn.state.get("agent", ""))}
        for turn in turns[:MAX_DELIBERATIONS]
    ]
    return {"rows": rows, "hidden": len(turns) - len(rows)}


async def prepare_cost(
    currency: str, data: DataView, filters: Mapping[str, str]
) -> Mapping[str, Any]:
    """Tokens and cost by model, by role and by story, the most expensive first."""
    usages = data.resources(ResourceQuery(kind=USAGE, limit=2_000))
    stories = data.resources(ResourceQuery(kind=STORY, limit=5_000))
    return {
        "currency": currency,
        "blind": find_blind(usages),
        "any": bool(usages),
        "groups": [
            {"title": "Model", "rows": add_up(usages, "model")},
            {"title": "Role", "rows": add_up(usages, "role")},
            {"title": "Story", "rows": add_up([s for s in stories if s.state.get("tokens")], "")},
        ],
    }


def add_up(resources: Sequence[Resource], field: str) -> list[dict[str, Any]]:
    """Tokens and cost by a field of the state, or by name; with their share of the largest."""
    sums: dict[str, dict[str, Any]] = {}
    for each in resources:
        name = str(each.state.get(field, "")) if field else each.name
        row = sums.setdefault(name, {"name": name, "tokens": 0, "cost": 0.0, "priced": False})
        row["tokens"] += each.state.get("tokens", 0)
        row["cost"] += each.state.get("cost", 0.0)
        row["priced"] = bool(row["cost"])
    rows = sorted(sums.values(), key=lambda row: (-row["cost"], -row["tokens"], row["name"]))
    largest = max((row["cost"] or row["tokens"] for row in rows), default=0)
    for row in rows:
        row["share"] = (row["cost"] or row["tokens"]) / largest if largest else 0.0
    return rows[:MAX_COST_ROWS]


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
                "time": compare(
                    seconds_since(each.state.get("since"), each),
                    None if is_final else each.state.get("usual"),
                ),
                "cost": each.state.get("cost"),
                "stale_since": each.state.get(STALE_SINCE),
                "tokens": each.state.get("tokens"),
                "problem": each.state.get("problem", ""),
            }
            for each in stories[:MAX_CARDS]
        ],
    }
