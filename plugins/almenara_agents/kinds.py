"""The kinds of resources that the plugin publishes, their statuses and events."""

from typing import Final, Literal

from almenara.signals import UNKNOWN, Severity

SOURCE: Final = "agents"
AGENT: Final = "agents.agent"
COUNCIL: Final = "agents.council"
DELIBERATION: Final = "agents.deliberation"
TASK: Final = "agents.task"
STORY: Final = "agents.story"

TURN: Final = "agents.turn"
"""What an agent does from a request to its result, as its spans report it."""
USAGE: Final = "agents.usage"

AGENT_STUCK: Final = "agents.agent.stuck"
AGENT_RECOVERED: Final = "agents.agent.recovered"
AGENT_LOOPING: Final = "agents.agent.looping"
AGENT_RETRYING: Final = "agents.agent.retrying"
AGENT_REFUSED: Final = "agents.agent.refused"
AGENT_CONTEXT_GROWING: Final = "agents.agent.context_growing"
BUDGET_EXCEEDED: Final = "agents.budget.exceeded"
DELIBERATION_FAILED: Final = "agents.deliberation.failed"

GENERATION_ENDED: Final = "agents.generation.ended"
"""The summary of a text that arrived in chunks, which are not stored."""
GENERATION_PROGRESS: Final = "agents.generation.progress"
"""A sign of life of a text while it is written; the tokens are not stored."""

IDLE: Final = "idle"
WORKING: Final = "working"
WAITING: Final = "waiting"
STUCK: Final = "stuck"
FAILED: Final = "failed"
RUNNING: Final = "running"
DELIBERATING: Final = "deliberating"
COMPLETED: Final = "completed"
UNCERTAIN: Final = "uncertain"
"""Of a deliberation that is complete, but whose winner its events leave open."""
LOST: Final = "lost"
"""Of a task whose end was never reported."""
SEVERITIES: Final = {
    STUCK: Severity.WARN,
    UNCERTAIN: Severity.WARN,
    LOST: Severity.WARN,
    FAILED: Severity.ERROR,
}
"""Statuses that are not healthy."""
ORDER: Final = (STUCK, FAILED, UNKNOWN, WORKING, WAITING, IDLE)
"""Statuses of agents as panels sort them."""

StepName = Literal[
    "story_created",
    "story_moved",
    "deliberation_started",
    "proposal",
    "vote",
    "deliberation_completed",
    "deliberation_failed",
    "task_dispatched",
    "response",
    "response_failed",
    "generation_started",
    "token",
    "generation_completed",
    "tool_called",
]
FieldName = Literal[
    "story", "task", "agent", "role", "members", "size", "winner", "choice", "text", "phase",
    "title", "status", "duration_ms", "tokens_in", "tokens_out", "model", "tool", "arguments",
    "decisions", "token", "position", "finish_reason",
]  # fmt: skip
