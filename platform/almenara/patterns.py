"""Patterns as in NATS subjects, for names with parts between dots or slashes."""

import re


def pattern(text: str) -> re.Pattern[str] | None:
    """The expression of a NATS-like pattern; None for a plain name.

    Sources have parts between slashes as well: `nats/*` is every stream.
    """
    if "*" not in text and not text.endswith(">"):
        return None
    parts = re.split(r"([./])", text)
    written = ""
    for place, part in enumerate(parts):
        if part == ">" and place == len(parts) - 1:
            written += ".+"
        else:
            written += "[^./]*".join(re.escape(piece) for piece in part.split("*"))
    return re.compile(written, re.DOTALL)
