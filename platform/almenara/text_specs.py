"""Texts that arrive in pieces and are displayed while they are written.

Part of the contract: `almenara.hookspecs` has all of these names.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import msgspec

from almenara.panel_specs import DataView
from almenara.signals import Event


class LiveText(msgspec.Struct, frozen=True, kw_only=True):
    """A text as far as it is written."""

    key: str
    """What identifies it among the texts of its stream, such as the name of its writer."""
    text: str


@runtime_checkable
class TextStream(Protocol):
    """Texts whose pieces arrive as events, such as the tokens of language models. The pieces are
    displayed by panels that name the stream (`TemplatePanel.texts`), and need not be stored.

    All methods are called on the event loop of the server, so they must be quick and not block.
    """

    name: str
    """Unique within the plugin."""
    types: Sequence[str]
    """Types of the events that it takes, or patterns of them."""

    def accept(self, event: Event) -> Sequence[Event]:
        """Take an event before it is stored, and return what is stored in its place: the event,
        another one, or nothing.

        The event has its `origin`. It may be the repetition of an earlier one: a source publishes
        again what was not stored. If this raises, the event is stored.
        """

    def read(self, data: DataView, filters: Mapping[str, str]) -> Sequence[LiveText]:
        """The texts for a panel with these filters, as of now. Secrets in them are masked after
        this."""

    def listen(
        self, filters: Mapping[str, str], listener: Callable[[], None]
    ) -> Callable[[], None]:
        """Call `listener` whenever `read` may return something else for these filters. Returns a
        function that ends this."""
