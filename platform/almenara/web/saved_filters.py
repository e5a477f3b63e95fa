"""Filters of the Events page that people saved under a name."""

import re
import secrets
from collections.abc import Mapping
from typing import ClassVar, Final

from almenara.history import Filter
from almenara.panels.filters import EVENT_FILTERS
from almenara.security.identity import Identity
from almenara.state_store import StateStore
from almenara.web.saved_items import SavedItem, SavedItems, Share

ID: Final = re.compile(r"[0-9a-f]{16}")
LONGEST_TITLE: Final = 80
LONGEST_VALUE: Final = 500


class SavedFilter(SavedItem, frozen=True, kw_only=True):
    """A version of a filter."""

    PREFIX: ClassVar[str] = "filter."
    NOUN: ClassVar[str] = "filter"

    id: str
    """Random: two users can have filters of the same title."""
    title: str
    query: dict[str, str]
    """The parameters of the Events page; relative times such as `15m` stay relative."""

    @property
    def name(self) -> str:
        """Its id."""
        return self.id


class SavedFilters(SavedItems[SavedFilter]):
    """The saved filters."""

    def __init__(self, store: StateStore) -> None:
        super().__init__(store, SavedFilter)

    def by_title(self, identity: Identity) -> list[SavedFilter]:
        """Return the filters that a user sees: first the user's own, each by title."""
        own = identity.user.subject
        return sorted(
            self.visible(identity),
            key=lambda saved: (saved.owner != own, saved.title.casefold(), saved.id),
        )


def make_filter(filter_id: str, title: str, values: Mapping[str, str], share: Share) -> SavedFilter:
    """Return a filter to store; without an id, a new one.

    Raises `ValueError` for one that has no title or condition, and for an invalid condition.
    """
    title = " ".join(title.split())
    if not title:
        raise ValueError("enter a name for the filter")
    if len(title) > LONGEST_TITLE:
        raise ValueError(f"the name is longer than {LONGEST_TITLE} characters")
    query = {name: text for name in sorted(EVENT_FILTERS) if (text := values.get(name, "").strip())}
    if not query:
        raise ValueError("enter at least one condition")
    for name, text in query.items():
        if len(text) > LONGEST_VALUE:
            raise ValueError(f"{name} is longer than {LONGEST_VALUE} characters")
    Filter.from_query(query)
    is_known = ID.fullmatch(filter_id) is not None
    return SavedFilter(
        id=filter_id if is_known else secrets.token_hex(8), title=title, query=query, share=share
    )
