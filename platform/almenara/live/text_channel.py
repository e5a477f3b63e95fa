"""The channel of a panel with live texts: what is added to them is sent without the rest."""

import contextlib
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from almenara.bus import Record
from almenara.errors import NotFound
from almenara.hookspecs import TextStream
from almenara.live.channel import Channel
from almenara.live.frames import Frame, make_frame
from almenara.panels.formats import text_anchor
from almenara.panels.live_texts import read_texts
from almenara.panels.renderer import reveal_invisible


def _do_nothing() -> None:
    """End listening to no stream."""


class TextChannel(Channel):
    """A panel whose texts grow many times a second while the rest of it changes seldom.

    The panel is rendered with a mark in place of each text. As long as that does not change, a
    frame has only what was added to the texts since the last one.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._mark = f"\ue000{secrets.token_hex(8)}"
        self._skeleton = ""
        """The rendered panel with marks in place of the texts."""
        self._texts: dict[str, str] = {}
        """The texts on screen as HTML, by key."""
        self._has_changed = True
        """Whether anything else than texts may have changed."""
        self._rendered_at = 0.0
        self._stream: TextStream | None = None
        self._end_listening: Callable[[], None] = _do_nothing

    async def run(self) -> None:
        try:
            await super().run()
        finally:
            self._end_listening()

    def _listen(self) -> None:
        """Listen to the text stream; a plugin that was reloaded has another one than before."""
        stream = None
        if self.view.text_streams is not None:
            with contextlib.suppress(NotFound):
                stream = self.view.text_streams.stream(self.panel.plugin, self.panel.text_stream)
        if stream is not self._stream:
            self._end_listening()
            self._stream, self._end_listening = stream, _do_nothing
            if stream is not None:
                self._end_listening = stream.listen(self.filters.to_query(), self._changed.set)

    def accept(self, batch: Sequence[Record]) -> None:
        if not self._has_changed and self.panel.is_affected(batch, self.filters):
            self.mark_changed()

    def mark_changed(self) -> None:
        self._has_changed = True
        super().mark_changed()

    async def open(self) -> None:
        await self._render_skeleton()
        self._texts = self._read_texts()

    async def tick(self) -> Frame | None:
        texts = self._read_texts()
        refresh = self.panel.refresh
        is_due = refresh is not None and time.monotonic() - self._rendered_at >= refresh
        if self._has_changed or is_due or texts.keys() != self._texts.keys():
            before = self._skeleton
            await self._render_skeleton()
            texts = self._read_texts()
            if self._skeleton != before:
                self._texts, self._frame = texts, None
                return self.snapshot()
        changes = "".join(self._write_changes(texts))
        self._texts = texts
        if not changes:
            return None
        self._frame = None
        return make_frame(changes, self.target, "beforeend", rows=True, panel=self.panel.name)

    def snapshot(self) -> Frame:
        if self._frame is None:
            texts = {self._anchor(key): text for key, text in self._texts.items()}
            first, *parts = self._skeleton.split(self._mark)
            content = [first]
            for part in parts:
                anchor, _, rest = part.partition("\ue001")
                content += (texts.get(anchor, ""), rest)
            self._frame = make_frame(
                "".join(content), self.target, "innerMorph", panel=self.panel.name
            )
        return self._frame

    def _anchor(self, key: str) -> str:
        return text_anchor(self.panel.anchor, key)

    async def _render_skeleton(self) -> None:
        self._listen()
        self._has_changed = False
        self._rendered_at = time.monotonic()
        marks = _Marks(lambda key: Markup(f"{self._mark}{self._anchor(key)}\ue001"))  # noqa: S704  # nosec B704 # nosemgrep: markup-made-in-python # a digest
        self._skeleton = await self.panel.render(
            self.view, self.filters, self.renderer, {"texts": marks}
        )
        self.counters.renders += 1

    def _read_texts(self) -> dict[str, str]:
        try:
            texts = read_texts(self.view, self.panel.plugin, self.panel.text_stream, self.filters)
        except NotFound:
            # The plugin is being reloaded.
            return {}
        return {key: str(escape(reveal_invisible(text))) for key, text in texts.items()}

    def _write_changes(self, texts: Mapping[str, str]) -> Sequence[str]:
        """The elements that append to the texts on screen or, where a text has changed before its
        end, replace it."""
        changes = []
        for key, text in texts.items():
            before = self._texts.get(key, "")
            if text == before:
                continue
            swap, added = (
                ("beforeend", text[len(before) :])
                if text.startswith(before)
                else ("innerHTML", text)
            )
            changes.append(f'<i hx-swap-oob="{swap}:#{self._anchor(key)}">{added}</i>')
        return changes


class _Marks(Mapping[str, Markup]):
    """A mark for whatever text a template displays."""

    def __init__(self, make: Callable[[str], Markup]) -> None:
        self._make = make

    def __getitem__(self, key: str) -> Markup:
        return self._make(key)

    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return 0
