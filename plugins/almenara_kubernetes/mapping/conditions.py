"""Conditions of objects: finding one, and the rows that panels display.

https://kubernetes.io/docs/reference/using-api/api-concepts/#conditions
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from almenara_kube.objects import Condition
from almenara_kubernetes.quantities import parse_timestamp

LONGEST_MESSAGE: Final = 500


def find_condition(conditions: Iterable[Condition], kind: str) -> Condition | None:
    """The condition of a type, or None."""
    return next((condition for condition in conditions if condition.type == kind), None)


def is_true(conditions: Iterable[Condition], kind: str) -> bool:
    """Whether the condition of a type holds."""
    condition = find_condition(conditions, kind)
    return condition is not None and condition.status == "True"


def map_conditions(conditions: Sequence[Condition]) -> list[dict[str, Any]]:
    """Conditions as rows: `type`, `status`, `reason`, `message` and `since`, without what is
    empty."""
    rows: list[dict[str, Any]] = [
        {
            "type": condition.type,
            "status": condition.status,
            "reason": condition.reason,
            "message": condition.message[:LONGEST_MESSAGE],
            "since": parse_timestamp(condition.last_transition_time),
        }
        for condition in conditions
    ]
    return [
        {name: value for name, value in row.items() if value is not None and value != ""}
        for row in rows
    ]
