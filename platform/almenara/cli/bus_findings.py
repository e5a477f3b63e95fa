"""What `almenara doctor` checks of a bus that replicas share: the log, its snapshots, and the
replicas."""

from collections.abc import Mapping, Sequence
from typing import Final, Literal

from almenara import __version__
from almenara.bus.snapshots import Manifest, SnapshotTooNewError, read_manifests
from almenara.clock import now
from almenara.config import BusSettings
from almenara.errors import Unavailable
from almenara.hookspecs import Finding
from almenara.leases.members import (
    describe_differences,
    describe_namesake,
    list_differences,
    read_members,
)
from almenara.leases.table import Holder, Member
from almenara.shared_log import LogBounds, SharedLog
from almenara.state.schemas import SCHEMAS
from almenara.units import SECOND

SNAPSHOTS: Final = "snapshots of the bus"
REPLICAS: Final = "replicas of the bus"
LATE: Final = 2
"""Intervals after which the newest snapshot is late, and for which the log must reach back."""


async def check_shared_log(
    shared_log: SharedLog, settings: BusSettings, digests: Mapping[str, str] | None = None
) -> list[Finding]:
    """Return the findings about the log, its snapshots and its replicas, whose settings are
    compared with digests of this configuration."""
    check = f"bus ({settings.kind})"
    try:
        report = await shared_log.check()
        findings = [
            Finding(check=check, verdict="warning", message=message, remedy=remedy)
            for message, _, remedy in (problem.partition(". ") for problem in report.problems)
        ]
        if not findings:
            findings.append(
                Finding(check=check, verdict="ok", message="it stores what is published")
            )
        findings.append(
            Finding(check="durability of the bus", verdict="ok", message=report.durability)
        )
        if report.max_age is not None and report.max_age < LATE * settings.snapshot_interval:
            findings.append(
                Finding(
                    check=SNAPSHOTS,
                    verdict="failed",
                    message=f"the bus stores messages for {report.max_age:,.0f} s, and snapshots"
                    f" are written every {settings.snapshot_interval:,.0f} s",
                    remedy="Raise bus.settings.max_age to at least twice bus.snapshot_interval.",
                )
            )
        async with shared_log.connect() as session:
            bounds = await session.bounds()
            manifests = await read_manifests(session.snapshots, await session.snapshots.names())
            members = await read_members(session)
    except Unavailable as error:
        message, _, remedy = str(error).partition(". ")
        return [Finding(check=check, verdict="failed", message=message, remedy=remedy)]
    findings.append(check_snapshots(manifests, bounds, settings, now()))
    return [*findings, *check_replicas(members, digests or {})]


def check_replicas(members: Sequence[Holder], digests: Mapping[str, str]) -> list[Finding]:
    """Return whether the running replicas have the same settings, and the ones of some digests."""
    names = [member.replica for member in members]
    problems = [describe_namesake(name) for name in sorted(set(names)) if names.count(name) > 1]
    current = [member for member in members if isinstance(member, Member) and member.digests]
    for member in current:
        own = {name: digest for name, digest in digests.items() if name in member.digests}
        if different := list_differences(own, member.digests):
            problems.append(
                describe_differences(member, different, "this configuration", __version__)
            )
        first = current[0]
        others = {name: digest for name, digest in first.digests.items() if name not in own}
        if different := list_differences(others, member.digests):
            problems.append(
                describe_differences(
                    member, different, f"the replica {first.replica}", first.version
                )
            )
    if not problems:
        listed = (
            f"{', '.join(names)}: running, with the same settings" if names else "no replica runs"
        )
        return [Finding(check=REPLICAS, verdict="ok", message=listed)]
    return [
        Finding(check=REPLICAS, verdict="warning", message=message, remedy=remedy)
        for message, _, remedy in (problem.partition(". ") for problem in problems)
    ]


def check_snapshots(
    manifests: list[Manifest], bounds: LogBounds, settings: BusSettings, moment: int
) -> Finding:
    """Return whether a replica with an empty folder can start. `moment` is in microseconds."""
    verdict: Literal["ok", "warning", "failed"]
    leading = [manifest for manifest in manifests if manifest.leads_to(bounds)]
    usable = [manifest for manifest in leading if manifest.is_readable(SCHEMAS)]
    if leading and not usable:
        message, _, remedy = str(SnapshotTooNewError(leading[0])).partition(". ")
        verdict = "warning" if bounds.first <= 1 else "failed"
        return Finding(check=SNAPSHOTS, verdict=verdict, message=message, remedy=f"{remedy}.")
    if not usable and bounds.first > 1:
        return Finding(
            check=SNAPSHOTS,
            verdict="failed",
            message="no snapshot leads to what the bus has, so that a replica with an empty folder"
            " cannot start",
            remedy="Start a replica that has the history, which writes one, or read its log.",
        )
    if not usable:
        return Finding(
            check=SNAPSHOTS,
            verdict="ok",
            message="none yet; a replica with an empty folder reads the bus from its start",
        )
    age = (moment - usable[0].created) / SECOND
    # Without new messages, no snapshot is written. The record of one is a message.
    is_late = age > LATE * settings.snapshot_interval and bounds.last - usable[0].position > 1
    verdict = "warning" if is_late else "ok"
    return Finding(
        check=SNAPSHOTS,
        verdict=verdict,
        message=f"the newest of {len(usable)} is {age:,.0f} s old and has {usable[0].size:,} bytes",
        remedy="Read the log of the replicas: one of them reports why it writes none."
        if is_late
        else "",
    )
