"""The published custom resources of KubeRay, which are unknown while no API server answers."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from almenara.hookspecs import Context, Publish, ResourceKey
from almenara.sdk import mark_unknown, now
from almenara.signals import Resource, Signal
from almenara_ray.kinds import FINAL_DEPLOYMENTS, RAY_JOB
from almenara_ray.kuberay_models import WATCHED


class CustomResources:
    """Remembers what was published of each, so that it can be withdrawn and published again.

    `on_silence` is called once for each time in which the API server does not answer.
    """

    def __init__(self, publish: Publish, on_silence: Callable[[str], Awaitable[None]]) -> None:
        self._publish, self._on_silence = publish, on_silence
        self._resources: dict[ResourceKey, Resource] = {}
        """As they were last read; without a status those that only an earlier run has read."""
        self._reason = ""
        self._answered_at: int | None = None
        self._changed = asyncio.Event()

    async def restore(self, context: Context, source: str) -> None:
        """Load what earlier runs have published."""
        for watched in WATCHED:
            for key in await context.known_resources(source, watched.kind):
                kind, namespace, name = key
                self._resources[key] = Resource(kind=kind, namespace=namespace, name=name)

    async def publish(self, signals: Sequence[Signal]) -> None:
        """Publish signals, and remember the resources among them."""
        for signal in signals:
            if isinstance(signal, Resource) and signal.deleted:
                self._resources.pop(signal.key, None)
            elif isinstance(signal, Resource):
                self._resources[signal.key] = signal
        await self._publish(signals)

    def note_api_server(self, reason: str) -> None:
        """Note why the API server does not answer; an empty reason when it does."""
        if bool(reason) != bool(self._reason):
            self._changed.set()
        self._reason = reason
        if not reason:
            self._answered_at = now()

    async def follow_api_server(self) -> None:
        """Publish the resources as unknown when the API server falls silent, and as they were when
        it answers again, until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._reason:
                await self._publish([self._hide(each) for each in self._resources.values()])
                await self._on_silence(self._reason)
            else:
                # A change that was missed meanwhile follows from the watch.
                await self._publish([each for each in self._resources.values() if each.status])

    def _hide(self, resource: Resource) -> Resource:
        if resource.kind == RAY_JOB and resource.state.get("deployment") in FINAL_DEPLOYMENTS:
            return resource
        return mark_unknown(resource, self._reason, self._answered_at)
