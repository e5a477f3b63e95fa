"""The text of queries as it may be shown: without literals, comments and line breaks."""

import re
from typing import Final

MAX_QUERY: Final = 500
MAX_READ: Final = 20_000
"""Characters of a query that are read."""
TOKENS: Final = re.compile(
    r"""
    (?P<comment> //[^\n]* | /\*.*?(?:\*/|\Z) )
  | (?P<text> '(?:[^'\\]|\\.)*(?:'|\\?\Z) | "(?:[^"\\]|\\.)*(?:"|\\?\Z) )
  | (?P<name> `(?:[^`]|``)*(?:`|\Z) | \$?[^\W\d]\w* )
  | (?P<number> (?:\d|\.\d)[\w.]*(?:(?<=[eE])[+-]\d+)? )
  | (?P<space> \s+ )
    """,
    re.VERBOSE | re.DOTALL,
)


def mask_query(query: str) -> str:
    """The text of a query with `?` for each literal, on one line and cut to a bounded length.

    Names of labels, properties and parameters stay; the values of parameters are no part of it.
    """
    text = " ".join(TOKENS.sub(_mask, query[:MAX_READ]).split())
    return text if len(text) <= MAX_QUERY else text[:MAX_QUERY] + "…"


def _mask(match: re.Match[str]) -> str:
    if match["name"] is not None:
        return match["name"]
    return " " if match["comment"] is not None or match["space"] is not None else "?"
