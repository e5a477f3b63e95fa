"""The channel of a panel as of a moment, and of a playback, whose moment moves."""

import asyncio
from collections.abc import Sequence
from typing import Final

from almenara.bus import Record
from almenara.errors import AlmenaraError, describe_error
from almenara.live.channel import Channel
from almenara.live.frames import Frame, make_frame
from almenara.panels.past import view_at
from almenara.panels.time_window import PLAYBACK_STEP
from almenara.signals import now
from almenara.units import SECOND

SETTLING: Final = 0.05
"""Seconds after the start of a step at which it is rendered."""


class PastChannel(Channel):
    """Renders once for all who watch the same playback.

    The position of a playback depends on the clock alone, in steps, so that every panel of a page
    shows the same moment and the state of the resources is read once for all of them.
    """

    def accept(self, batch: Sequence[Record]) -> None:
        """New signals change nothing in the past."""

    async def _wait_for_change(self) -> None:
        window = self.view.window
        if window.speed:
            passed = (now() - window.started) % PLAYBACK_STEP
            await asyncio.sleep((PLAYBACK_STEP - passed) / SECOND + SETTLING)
            return
        await self._changed.wait()
        self._changed.clear()

    async def _render(self) -> Frame:
        window = self.view.window.position(now())
        try:
            view = await view_at(self.view, window)
        except AlmenaraError as error:
            content: str = self.renderer.render(
                "panel_error.html", {"panel": self.panel, "message": describe_error(error)}
            )
        else:
            content = await self.panel.render(view, self.filters, self.renderer)
        self.counters.renders += 1
        return make_frame(
            content, self.target, "innerMorph", panel=self.panel.name, moment=window.until
        )
