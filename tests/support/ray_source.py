"""The Ray plugin's source at work on a real head."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from almenara.config import Secret
from almenara.signals import Event
from almenara.testing import SourceRun
from almenara.testing.source_run import MemoryBus, MemoryContext
from almenara_ray.settings import ClusterSettings, RaySettings
from almenara_ray.source import RaySource
from support.ray_head import RayHead


def make_settings(head: RayHead, **options: Any) -> RaySettings:
    """The settings of a cluster named `lab`, polled faster than by default."""
    token = Secret.of(head.token) if head.token else None
    cluster = ClusterSettings(name="lab", url=head.url, token=token)
    intervals = {"active_interval": 0.3, "idle_interval": 0.6, "cluster_interval": 1.0}
    return RaySettings(clusters=[cluster], **{**intervals, **options})


@contextlib.asynccontextmanager
async def run_source(
    head: RayHead,
    folder: Path,
    bus: MemoryBus | None = None,
    context: MemoryContext | None = None,
    **options: Any,
) -> AsyncIterator[SourceRun]:
    """Run the source of a head; with the same context and bus it is a restarted one."""
    settings = make_settings(head, **options)
    source = RaySource(settings.clusters[0], settings, context or MemoryContext(folder))
    async with SourceRun(source, bus=bus) as run:
        yield run


def list_job_events(run: SourceRun, job: str) -> list[str]:
    """The events of a job in the order of their publication, as `submitted` or `failed`."""
    return [
        event.type.removeprefix("ray.job.")
        for event in run.events
        if event.type.startswith("ray.job.") and event.subject == job
    ]


def list_events(run: SourceRun) -> list[Event]:
    """The published events with their data decoded."""
    return [
        msgspec.structs.replace(event, data=msgspec.json.decode(event.data))
        if isinstance(event.data, msgspec.Raw)
        else event
        for event in run.events
    ]


def find_job_event(run: SourceRun, job: str, name: str) -> Event:
    """One event of a job, with its data decoded."""
    return next(
        event
        for event in list_events(run)
        if (event.subject, event.type) == (job, f"ray.job.{name}")
    )


async def submit(head: RayHead, entrypoint: str, **options: Any) -> str:
    """Submit a job, and return its id."""
    return await asyncio.to_thread(head.submit, entrypoint, **options)
