"""Pages of a list that is whole in memory: the rows of a page, and the links to its neighbours."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec

from almenara.panels.formats import encode_query

PAGE: Final = "page"
"""The parameter of an address that has the number of the page, from 1."""
LONGEST_NUMBER: Final = 9

T = TypeVar("T")


class Paging(msgspec.Struct, frozen=True, kw_only=True):
    """Where a page is in its list."""

    first: int
    """The number of its first row in the list, from 1; 0 for an empty list."""
    last: int
    total: int
    previous_link: str
    """The address of the page before; empty for the first."""
    next_link: str
    """The address of the page after; empty for the last."""


def parse_page(text: str) -> int:
    """Return the number of a page; 1 for none. Raises `ValueError`."""
    if not text:
        return 1
    is_number = text.isascii() and text.isdigit() and len(text) <= LONGEST_NUMBER
    if not is_number or not int(text):
        raise ValueError(f"page {text[:20]!r} is not the number of a page; the first is 1")
    return int(text)


def cut_page(
    rows: Sequence[T], page: int, size: int, address: str, query: Mapping[str, Any]
) -> tuple[Sequence[T], Paging]:
    """Return the rows of a page and where it is; beyond the last page, that is the last."""
    page = min(page, max(-(-len(rows) // size), 1))
    start, end = (page - 1) * size, min(page * size, len(rows))

    def link(number: int) -> str:
        pages = {} if number == 1 else {PAGE: str(number)}
        return address + encode_query({**query, **pages})

    return rows[start:end], Paging(
        first=min(start + 1, end),
        last=end,
        total=len(rows),
        previous_link=link(page - 1) if page > 1 else "",
        next_link=link(page + 1) if end < len(rows) else "",
    )
