"""The machine that Almenara runs on: the usage of its disks, and its load.

This file is a complete plugin. Put it into a folder and start Almenara with it:

    almenara serve --plugins-dir FOLDER

Its settings are under `plugins.host` in the configuration, after the name of the file:

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
    Context,
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
    """What to observe of this machine."""

    folders: list[str] = msgspec.field(default_factory=lambda: ["/"])
    """Folders whose disks are observed."""
    full_at: Share = 0.9
    """Share of a disk in use at which it counts as full."""
    every: Annotated[float, msgspec.Meta(gt=0)] = 10.0
    """Seconds between measurements."""


def events_of(change: Changes) -> Sequence[Event]:
    """The event of a disk that became full, or is not full any more."""
    before, after = change.before, change.after
    if before is None or after is None or before.status == after.status:
        return ()
    is_full = after.status == "full"
    return [
        Event(
            # The same change must always have the same id: then it is one event, even if a
            # restarted source publishes it again.
            id=f"{after.name}/{after.status}/{after.time}",
            source="host",
            type="host.disk.full" if is_full else "host.disk.ok",
            subject=after.name,
            time=after.time,
            severity=Severity.ERROR if is_full else Severity.INFO,
            data=after.state,
        )
    ]


class Host:
    """Observes the disks and the load of this machine."""

    name = "host"

    def __init__(self, settings: HostSettings, context: Context) -> None:
        self.settings, self.context = settings, context
        self.snapshots = Snapshots(events_of)

    async def run(self, publish: Publish, report: SourceReport) -> None:
        # Disks that are no longer configured, or gone since the last run, are deleted.
        await self.snapshots.restore(self.context, self.name)

        async def measure() -> None:
            # A network file system may block for long: never on the event loop.
            disks = await asyncio.gather(*(self.disk(path) for path in self.settings.folders))
            load = os.getloadavg()[0] / (os.cpu_count() or 1)
            await publish(
                [
                    *self.snapshots.difference([*disks, Resource(kind="host", name="local")]),
                    *(
                        Sample(
                            kind=disk.kind,
                            name=disk.name,
                            metric="used",
                            value=disk.state["share"],
                        )
                        for disk in disks
                    ),
                    Sample(kind="host", name="local", metric="load", value=load),
                ]
            )

        await poll(measure, seconds=self.settings.every, report=report)

    async def disk(self, folder: str) -> Resource:
        """The disk of a folder. Raises `OSError` for a folder that does not exist."""
        usage = await blocking(lambda: shutil.disk_usage(folder))
        share = usage.used / usage.total
        is_full = share >= self.settings.full_at
        return Resource(
            kind="host.disk",
            name=folder,
            status="full" if is_full else "ok",
            severity=Severity.ERROR if is_full else Severity.INFO,
            state={"used": usage.used, "total": usage.total, "share": share},
        )


@almenara.hookimpl
def almenara_settings() -> type[HostSettings]:
    return HostSettings


@almenara.hookimpl
def almenara_sources(settings: HostSettings, context: Context) -> Sequence[Host]:
    return [Host(settings, context)]


@almenara.hookimpl
def almenara_panels() -> Sequence[Panel]:
    return [
        NumberPanel(
            name="load",
            title="Load per processor",
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
            title="Disk status changes",
            query=EventQuery(filter={"type": "host.disk.*"}),
            width=12,
            empty="No disk has become full.",
        ),
    ]
