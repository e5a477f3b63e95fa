"""Parses the text of `/api/cluster_status?format=1`, the only status of an autoscaler v2.

It is what `ray status` prints (`ClusterStatusFormatter` in ray/autoscaler/v2/utils.py):

    Pending:
     gpu-workers, 2 launching
    Recent failures:
     (no failures)
    ...
    Total Usage:
     1.0/4.0 CPU
     0B/1.82GiB memory
    ...
    Pending Demands:
     {'CPU': 64.0}: 3+ pending tasks/actors
     {'GPU': 1.0} * 2 (PACK): 1+ pending placement groups

Lines that are not understood are skipped: the text is written for people and may change.
"""

import ast
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from almenara_ray.models import ClusterStatus, Demand
from almenara_ray.redaction import redact
from almenara_ray.values import as_amounts

NO_STATUS: Final = "No cluster status"
"""How the text starts while the autoscaler has not reported."""
USAGE: Final = re.compile(
    r"(?P<used>[\d.]+)(?P<used_unit>[KMGT]iB|B)?/(?P<total>[\d.]+)(?P<total_unit>[KMGT]iB|B)?"
    r" (?P<resource>\S+)"
)
TASKS: Final = re.compile(r"(?P<bundle>\{[^}]*\}): (?P<count>\d{1,9})\+? pending tasks/actors")
GROUPS: Final = re.compile(
    r"(?P<bundles>\{.*\} \* \d{1,9}) \((?P<strategy>\w+)\):"
    r" (?P<count>\d{1,9})\+? pending placement groups"
)
BUNDLE: Final = re.compile(r"(?P<bundle>\{[^}]*\}) \* (?P<count>\d{1,9})(?!\d)")
LAUNCHES: Final = re.compile(r".*, (?P<count>\d{1,9}) launching")
UNITS: Final[Mapping[str, int]] = {
    "": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip
DEMAND_TITLES: Final = ("Pending Demands", "Total Demands", "Demands")
"""Titles of the pending demand in the versions of Ray, the newest first."""
DEMAND_LIMIT: Final = 50
TEXT_LINES: Final = 5_000
LINE_LENGTH: Final = 2_000
"""Characters of a line that are read, which bounds the time that the patterns take."""


def parse_autoscaler_text(text: str) -> ClusterStatus | None:
    """Return the status in the text; None without any usage, which every running cluster has."""
    if text.startswith(NO_STATUS):
        return None
    sections = _split_sections(text)
    usage = dict(_parse_usage(sections.get("Total Usage", ())))
    if not usage:
        return None
    # A section that is missing is unknown, not empty: an empty one has a line in parentheses.
    lines = next((sections[title] for title in DEMAND_TITLES if title in sections), None)
    pending, failures = sections.get("Pending"), sections.get("Recent failures")
    return ClusterStatus(
        usage=usage,
        demand=None if lines is None else [*_parse_demand(lines)][:DEMAND_LIMIT],
        starting=None if pending is None else sum(map(_count_pending, pending)),
        failed=None if failures is None else len(failures),
        error=redact("; ".join(failures or ())[:1000]),
    )


def _split_sections(text: str) -> dict[str, list[str]]:
    """Return the indented lines below each title, without those in parentheses: `(none)`."""
    sections: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in (line[:LINE_LENGTH] for line in text.splitlines()[:TEXT_LINES]):
        if line.endswith(":") and not line.startswith(" "):
            lines = sections.setdefault(line[:-1], [])
        elif line.startswith(" ") and not line.strip().startswith("("):
            lines.append(line.strip())
    return sections


def _parse_usage(lines: Sequence[str]) -> Iterator[tuple[str, tuple[float, float]]]:
    for line in lines:
        if match := USAGE.match(line):
            used = _parse_amount(match["used"], match["used_unit"])
            total = _parse_amount(match["total"], match["total_unit"])
            if used is not None and total is not None:
                yield match["resource"][:100], (used, total)


def _parse_amount(number: str, unit: str | None) -> float | None:
    try:
        amount = float(number) * UNITS[unit or ""]
    except ValueError:
        return None
    return amount if math.isfinite(amount) else None


def _parse_demand(lines: Sequence[str]) -> Iterator[Demand]:
    for line in lines:
        if (match := TASKS.match(line)) and (resources := _parse_bundle(match["bundle"])):
            yield Demand(resources=resources, count=int(match["count"]))
        elif match := GROUPS.match(line):
            total: dict[str, float] = {}
            for part in BUNDLE.finditer(match["bundles"]):
                for name, amount in _parse_bundle(part["bundle"]).items():
                    total[name] = total.get(name, 0.0) + amount * int(part["count"])
            if total and all(map(math.isfinite, total.values())):
                strategy = match["strategy"][:40]
                yield Demand(resources=total, count=int(match["count"]), group=strategy)


def _parse_bundle(text: str) -> dict[str, float]:
    # Python's notation of a dict of numbers.
    try:
        return as_amounts(ast.literal_eval(text))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return {}


def _count_pending(line: str) -> int:
    match = LAUNCHES.fullmatch(line)
    return int(match["count"]) if match else 1
