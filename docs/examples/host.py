"""This machine: how full its disks are and how busy it is.

One file is a whole plugin. Put it into a folder and start Almenara with it:

    almenara serve --plugins-dir FOLDER

What it watches is set under `plugins.host` in the configuration, the name being that of the file:

    plugins:
      host:
        folders: [/, /var/lib]
        full_at: 0.8
"""

import asyncio
import os
import shutil
from collections.abc import Sequence
from typing import Annotated

import msgspec

import almenara
from almenara.hookspecs import (
    Column,
    EventQuery,
    EventsPanel,
    NumberPanel,
    Panel,
    Publish,
    ResourceQuery,
    SampleQuery,
    SourceReport,
    TablePanel,
)
from almenara.sdk import Changes, Snapshots, blocking, poll
from almenara.signals import Event, Resource, Sample, Severity

Share = Annotated[float, msgspec.Meta(gt=0, le=1)]


class HostSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What of this machine is watched."""

    folders: list[str] = msgspec.field(default_factory=lambda: ["/"])
    """Folders whose disks are watched."""
    full_at: Share = 0.9
    """Share of a disk in use from which on it counts as full."""
    every: Annotated[float, msgspec.Meta(gt=0)] = 10.0
    """Seconds between looks."""


def told(change: Changes) -> Sequence[Event]:
    """The event of a disk that became full, or has room again."""
    before, after = change.before, change.after
    if before is None or after is None or before.status == after.status:
        return ()
    full = after.status == "full"
    return [
        Event(
            # The same change must always have the same id: then it is one event, however often a
            # source that is restarted tells of it.
            id=f"{after.name}/{after.status}/{after.time}",
            source="host",
            type="host.disk.full" if full else "host.disk.ok",
            subject=after.name,
            time=after.time,
            severity=Severity.ERROR if full else Severity.INFO,
            data=after.state,
        )
    ]


class Host:
    """Looks at the disks and the load of this machine."""

    name = "host"

    def __init__(self, settings: HostSettings) -> None:
        self.settings = settings
        self.snapshots = Snapshots(told)

    async def run(self, publish: Publish, report: SourceReport) -> None:
        async def look() -> None:
            # Asking a network file system may block for long: never on the event loop.
            disks = await asyncio.gather(*(self.disk(it) for it in self.settings.folders))
            load = os.getloadavg()[0] / (os.cpu_count() or 1)
            await publish(
                [
                    *self.snapshots.difference([*disks, Resource(kind="host", name="this")]),
                    *(
                        Sample(kind=it.kind, name=it.name, metric="used", value=it.state["share"])
                        for it in disks
                    ),
                    Sample(kind="host", name="this", metric="load", value=load),
                ]
            )

        await poll(look, seconds=self.settings.every, report=report)

    async def disk(self, folder: str) -> Resource:
        """The disk that holds a folder. Raises `OSError` where there is none."""
        usage = await blocking(lambda: shutil.disk_usage(folder))
        share = usage.used / usage.total
        full = share >= self.settings.full_at
        return Resource(
            kind="host.disk",
            name=folder,
            status="full" if full else "ok",
            severity=Severity.ERROR if full else Severity.INFO,
            state={"used": usage.used, "total": usage.total, "share": share},
        )


@almenara.hookimpl
def almenara_settings() -> type[HostSettings]:
    return HostSettings


@almenara.hookimpl
def almenara_sources(settings: HostSettings) -> Sequence[Host]:
    return [Host(settings)]


@almenara.hookimpl
def almenara_panels() -> Sequence[Panel]:
    return [
        NumberPanel(
            name="load",
            title="Load of each processor",
            query=SampleQuery(kind="host", metric="load", combine="max"),
            format="percent",
            width=3,
        ),
        TablePanel(
            name="disks",
            title="Disks",
            query=ResourceQuery(kind="host.disk"),
            columns=[
                Column(title="Folder", path="name"),
                Column(title="State", path="status", format="status"),
                Column(title="In use", path="state.share", format="percent", spark="used"),
                Column(title="Size", path="state.total", format="bytes"),
            ],
            sort="-state.share",
            filters=["name", "status"],
            width=9,
        ),
        EventsPanel(
            name="changes",
            title="Disks that became full",
            query=EventQuery(filter={"type": "host.disk.*"}),
            width=12,
            empty="No disk has become full.",
        ),
    ]
