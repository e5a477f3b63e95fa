"""How often servers run each command, and how long it takes, by what their statistics count."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from almenara.signals import Resource, Sample
from almenara_valkey.info import Info, list_commands, read_latencies
from almenara_valkey.kinds import COMMAND
from almenara_valkey.mapping import Counters

MAX_COMMANDS: Final = 50
"""The most called commands that are shown."""


class CommandStatistics(msgspec.Struct, frozen=True):
    """The commands of one server."""

    totals: Mapping[str, tuple[int, float]] = {}
    """Calls and microseconds of each since the statistics were reset."""
    increases: Mapping[str, tuple[int, float]] = {}
    """What they grew by since the last observation; empty where that is unknown."""
    seconds: float = 0.0
    """Seconds since the last observation."""
    latencies: Mapping[str, float] = {}
    """The 99th percentile of the duration of each, in seconds."""


def measure_commands(info: Info, before: Counters | None, at: float) -> CommandStatistics:
    """The commands of a server that has answered. `before` is None where it was not observed in the
    round before: what it has counted in its life is no increase then."""
    totals, latencies = _read_totals(info), read_latencies(info)
    if before is None or before.run_id != info.get("run_id") or at <= before.at:
        return CommandStatistics(totals=totals, latencies=latencies)
    return CommandStatistics(
        totals=totals,
        increases=dict(_find_increases(_read_totals(before.info), totals)),
        seconds=at - before.at,
        latencies=latencies,
    )


def _read_totals(info: Info) -> dict[str, tuple[int, float]]:
    return {name: (calls, duration) for name, calls, duration in list_commands(info)}


def _find_increases(
    before: Mapping[str, tuple[int, float]], after: Mapping[str, tuple[int, float]]
) -> Iterator[tuple[str, tuple[int, float]]]:
    for name, (calls, duration) in after.items():
        # A command that was not called before is not in the statistics.
        old_calls, old_duration = before.get(name, (0, 0.0))
        # Fewer than before: the statistics were reset (CONFIG RESETSTAT).
        if calls >= old_calls and duration >= old_duration:
            yield name, (calls - old_calls, duration - old_duration)


def map_commands(
    deployment: str, servers: Iterable[CommandStatistics]
) -> tuple[list[Resource], list[Sample]]:
    """The most called commands of all servers together, with their rates."""
    totals: dict[str, int] = {}
    increases: dict[str, tuple[int, float, float]] = {}
    slowest: dict[str, float] = {}
    for server in servers:
        for name, (calls, _) in server.totals.items():
            totals[name] = totals.get(name, 0) + calls
        for name, (calls, duration) in server.increases.items():
            all_calls, all_durations, rate = increases.get(name, (0, 0.0, 0.0))
            increases[name] = (
                all_calls + calls, all_durations + duration, rate + calls / server.seconds,
            )  # fmt: skip
        for name, duration in server.latencies.items():
            # Percentiles of several servers cannot be added up.
            slowest[name] = max(duration, slowest.get(name, 0.0))
    names = sorted(totals, key=lambda name: -totals[name])[:MAX_COMMANDS]
    samples: list[Sample] = []
    for name in names:
        if name not in increases:
            continue
        calls, duration, rate = increases[name]
        values = [("calls", rate, "1/s")]
        if calls:
            values.append(("duration", duration / calls / 1e6, "s"))
            if name in slowest:
                values.append(("duration_p99", slowest[name], "s"))
        samples += [
            Sample(
                kind=COMMAND, namespace=deployment, name=name, metric=metric, value=value,
                unit=unit,
            )
            for metric, value, unit in values
        ]  # fmt: skip
    return [Resource(kind=COMMAND, namespace=deployment, name=name) for name in names], samples
