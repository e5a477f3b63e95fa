"""Resources as panels display them."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from almenara.hookspecs import DataView, ResourceQuery
from almenara.sdk import now
from almenara.signals import OBSERVED_BY, STALE_SINCE, UNKNOWN, Resource
from almenara.units import SECOND
from almenara_agents.kinds import COUNCIL, DELIBERATING, RUNNING, STUCK

MAX_COUNCILS: Final = 5_000
MAX_MISSING: Final = 3
"""Members that have not answered whose names are displayed."""


def has_role(resource: Resource, filters: Mapping[str, str]) -> bool:
    """Whether a resource is of the role in the filter."""
    role = filters.get("role", "")
    return not role or str(resource.state.get("role", "")).lower() == role.lower()


def seconds_since(time: Any, resource: Resource | None = None) -> float | None:
    """The seconds since a time in microseconds; of a resource that cannot be read, until it was
    read last."""
    if not isinstance(time, int):
        return None
    stale = resource.state.get(STALE_SINCE) if resource is not None else None
    return max(((stale if isinstance(stale, int) else now()) - time) / SECOND, 0.0)


def last_status(resource: Resource) -> str:
    """The status of a resource or, where it cannot be read, the last known one."""
    if resource.status != UNKNOWN:
        return resource.status
    return str(resource.state.get("last_status") or UNKNOWN)


def find_blind(resources: Sequence[Resource]) -> dict[str, Any] | None:
    """Since when some of the resources cannot be read, and what their events are from."""
    unread = [each for each in resources if STALE_SINCE in each.state]
    if not unread:
        return None
    return {
        "since": min(each.state[STALE_SINCE] for each in unread),
        "origins": sorted({str(each.state.get(OBSERVED_BY, each.origin)) for each in unread}),
    }


def compare(seconds: float | None, usual: Any) -> dict[str, Any]:
    """A duration beside the usual one, and how far a bar of twice the usual is filled."""
    share = None
    if seconds is not None and isinstance(usual, int | float) and usual > 0:
        share = min(seconds / (2 * usual), 1.0)
    return {"seconds": seconds, "usual": usual, "share": share, "slow": bool(share and share >= 1)}


def position(order: Sequence[str], status: str) -> int:
    """The place of a status in an order; unknown ones are last."""
    return order.index(status) if status in order else len(order)


def describe_agent(agent: Resource) -> dict[str, Any]:
    """The row of an agent."""
    state = agent.state
    elapsed = seconds_since(state.get("step_since") or state.get("since"), agent)
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
        "silence": seconds_since(state.get("silent_since"), agent),
        "stale_since": state.get(STALE_SINCE),
        "last_status": last_status(agent),
        "time": compare(elapsed, state.get("usual")),
    }


def describe_deliberation(deliberation: Resource) -> dict[str, Any]:
    """The row of a deliberation."""
    state = deliberation.state
    is_running = last_status(deliberation) in (RUNNING, STUCK)
    seconds = (
        seconds_since(state.get("started"), deliberation) if is_running else state.get("duration")
    )
    proposals, votes = state.get("proposals", {}), state.get("votes", {})
    failures, dissent = state.get("failures", {}), state.get("dissent", ())
    members, reason = state.get("members", ()), state.get("reason", "")
    if last_status(deliberation) == STUCK:
        waiting = explain_silence([each for each in members if each not in proposals | failures])
        reason = "; ".join(filter(None, (waiting, reason)))
    return {
        "name": deliberation.name,
        "status": deliberation.status,
        "severity": deliberation.severity.name,
        "is_running": is_running,
        "role": state.get("role", ""),
        "story": state.get("story", ""),
        "phase": state.get("phase", ""),
        "stale_since": state.get(STALE_SINCE),
        "round": state.get("round"),
        "decisions": state.get("decisions", ()),
        "quorum": state.get("quorum", ""),
        "started": state.get("started"),
        "ended": state.get("ended"),
        "answered": bool(proposals or failures),
        "winner": state.get("winner", ""),
        "votes": votes,
        "dissent": dissent,
        "reason": reason,
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
            for name in members
        ],
    }


def explain_silence(missing: Sequence[str]) -> str:
    """Why a deliberation does not go on, from the members that have not answered."""
    if not missing:
        return "every member has answered, and no result was published"
    others = f" and {len(missing) - MAX_MISSING} more" if len(missing) > MAX_MISSING else ""
    return f"no answer from {', '.join(missing[:MAX_MISSING])}{others}"


def name_deliberation(council: Resource | None, chosen: str) -> str:
    """The deliberation that the room of a council is about: the chosen one, else the newest that
    makes progress, else one that is stuck, else the last."""
    state = council.state if council is not None else {}
    return chosen or next(iter(state.get("active", ())), "") or str(state.get("last", ""))


def find_council(data: DataView, name: str) -> Resource | None:
    """The council of a name or, without one, that with the most to see."""
    if name:
        return data.resource(COUNCIL, "", name)
    order = (STUCK, DELIBERATING)
    councils = data.resources(ResourceQuery(kind=COUNCIL, limit=MAX_COUNCILS))
    return min(
        councils, key=lambda each: (position(order, last_status(each)), each.name), default=None
    )
