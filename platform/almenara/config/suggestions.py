"""Suggestions for names that are not known: "did you mean …?"."""

import difflib
import re
from collections.abc import Iterable
from typing import Final

LISTED: Final = 20
"""Known names that are listed where none of them is close."""
QUANTITY: Final = re.compile(r"'(\d{1,9}(?:\.\d{1,9})?) ?([A-Za-z]+)'")
SECONDS: Final = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
BYTES: Final = {
    f"{prefix}{ending}": base**power
    for power, prefix in enumerate("KMGT", start=1)
    for ending, base in (("", 1000), ("B", 1000), ("i", 1024), ("iB", 1024))
}


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


def end_sentence(text: str) -> str:
    """Return a text that ends as a sentence does, also where it is a question."""
    return text if text.endswith((".", "?")) else f"{text}."


def suggest_number(value: str) -> str:
    """Return what to write instead of a quoted value such as `'7d'` or `'10GiB'`; else nothing."""
    match = QUANTITY.fullmatch(value)
    if match is None:
        return ""
    amount, unit = float(match[1]), match[2]
    if (seconds := SECONDS.get(unit)) is not None:
        return f"; times are in seconds, so write {_plain(amount * seconds)}"
    if (size := BYTES.get(unit)) is not None:
        return f"; sizes are in bytes, so write {_plain(amount * size)}"
    return ""


def _plain(number: float) -> str:
    return f"{number:.3f}".rstrip("0").rstrip(".")
