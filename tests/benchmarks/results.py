"""The results of the benchmarks: how much is measured, and the table of the figures."""

import dataclasses
import os


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured."""

    messages: int = 60_000
    queried: int = int(os.environ.get("BENCH_EVENTS", "5000000"))
    stored: int = 200_000
    pages: int = 200
    starts: int = 5
    rest: float = 5.0
    """Seconds before idle memory is read."""
    batches: int = 120
    singles: int = 200
    checks: int = 1_000
    check_seconds: float = 150.0
    page_bytes: int = 7_969_177
    backlog_bytes: int = 300 * 1024**2
    backlog_rounds: int = 3
    turns: int = 10
    turn_seconds: float = 2.0
    """Seconds for which a bad source publishes, and rests, in each turn."""


SHORT = Size(
    messages=2_000, queried=20_000, stored=5_000, pages=10,
    starts=1, rest=0.2, batches=10, singles=20,
    checks=40, check_seconds=4.0, page_bytes=500_000, backlog_bytes=4 * 1024**2, backlog_rounds=1,
    turns=1, turn_seconds=0.5,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Result:
    """A line of the table; the reference is the same work without Almenara, or a budget."""

    name: str
    measured: str
    reference: str
    ratio: float
    goal: str = ""


def print_table(results: list[Result], others: dict[str, Result]) -> None:
    """`others` are the results of another checkout; a ratio of 1 means as fast or as large."""
    rows = [["", "Almenara", "reference", "ratio", "goal"]]
    rows[0] += ["other checkout", "ratio to it"] if others else []
    for result in results:
        row = [result.name, result.measured, result.reference, f"{result.ratio:.2f}", result.goal]
        if (other := others.get(result.name)) is not None:
            # Both were measured against the same reference, minutes apart.
            row += [other.measured, f"{result.ratio / other.ratio:.2f}"]
        rows.append(row + [""] * (len(rows[0]) - len(row)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
