"""Suggestions for names that are not known: "did you mean …?"."""

import difflib
from collections.abc import Iterable
from typing import Final

LISTED: Final = 20
"""Known names that are listed where none of them is close."""


def suggest(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Return "did you mean …?" with the closest known name, else the list of known names.

    `cutoff` is the least similarity, from 0 to 1, at which a name counts as close.
    """
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=cutoff)
    if near:
        return f"did you mean {near[0]}?"
    if not names:
        return "none is known"
    listed = ", ".join(names[:LISTED])
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"known: {listed}{more}"
