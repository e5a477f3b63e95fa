"""Patterns as in NATS subjects, for names with parts between dots or slashes."""

import re


def compile_pattern(text: str) -> re.Pattern[str] | None:
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
            first, *others = re.split(r"\*+", part)
            written += re.escape(first)
            # The first place where a piece stands is as good as any later one, and for the last
            # piece only the last place is. Nothing is tried twice, so that nobody can write a
            # pattern that takes for ever.
            for piece in others[:-1]:
                written += f"(?>[^./]*?{re.escape(piece)})"
            if others:
                written += f"(?>[^./]*{re.escape(others[-1])})"
    return re.compile(written, re.DOTALL)
