"""Patterns as in NATS subjects, for names with parts between dots or slashes; and regular
expressions that take linear time."""

import functools
import re
from typing import Any, Final

SEPARATORS: Final = "./"
AND_BELOW: Final = ("/**", ".**")
"""How a pattern ends that matches what stands before it, and everything below that."""
SEGMENT_PART: Final = "*"
"""Token for any number of characters within a part."""
ANY: Final = "any"
"""Token for one character of any kind."""
REST: Final = "rest"
"""Token for any number of characters of any kind."""
REPEATED: Final = (SEGMENT_PART, REST)
LONGEST_EXPRESSION: Final = 1_000
EXPRESSION_MEMORY: Final = 1024**2
"""Bytes of a compiled regular expression and of its search."""


def compile_pattern(text: str) -> re.Pattern[str] | None:
    """Return the regular expression of a NATS-like pattern; None for a plain name.

    `*` matches within one part, a final `>` all remaining parts. Names of sources have parts
    between slashes as well: `nats/*` matches every stream. A final `/**` matches the name before it
    and everything below it: `ray/lab/**` matches `ray/lab` and `ray/lab/failed`.
    """
    if "*" not in text and not text.endswith(">"):
        return None
    name, separator = split_below(text)
    below = f"(?:{re.escape(separator)}.+)?" if separator else ""
    return re.compile(_describe(name) + below, re.DOTALL)


def split_below(text: str) -> tuple[str, str]:
    """Return what stands before a final `/**`, and its separator; the text and "" without one."""
    if text.endswith(AND_BELOW) and len(text) > len(AND_BELOW[0]):
        return text[:-3], text[-3]
    return text, ""


def _describe(text: str) -> str:
    """Return the regular expression of a pattern without a final `/**`."""
    parts = re.split(r"([./])", text)
    expression = ""
    for index, part in enumerate(parts):
        if part == ">" and index == len(parts) - 1:
            expression += ".+"
        else:
            first, *others = re.split(r"\*+", part)
            expression += re.escape(first)
            # The first place where a piece matches is as good as any later one, and for the last
            # piece only the last place is. So each group is atomic: nothing is tried twice, and no
            # pattern of a user can take exponential time.
            for piece in others[:-1]:
                expression += f"(?>[^./]*?{re.escape(piece)})"
            if others:
                expression += f"(?>[^./]*{re.escape(others[-1])})"
    return expression


def patterns_overlap(one: str, other: str) -> bool:
    """Return whether any name matches both patterns; a plain name matches itself.

    Exact: it searches the product of the two automata, of at most (n + 1) * (m + 1) states.
    """
    return any(
        _tokens_overlap(_tokenize(left), _tokenize(right))
        for left in _list_alternatives(one)
        for right in _list_alternatives(other)
    )


def _list_alternatives(text: str) -> tuple[str, ...]:
    """Return patterns without a final `/**` that together match the same names."""
    name, separator = split_below(text)
    return (name, f"{name}{separator}>") if separator else (text,)


def _tokens_overlap(left: list[str], right: list[str]) -> bool:
    pending, visited = [(0, 0)], {(0, 0)}
    while pending:
        i, j = pending.pop()
        if i == len(left) and j == len(right):
            return True
        following = []
        if i < len(left) and left[i] in REPEATED:
            following.append((i + 1, j))
        if j < len(right) and right[j] in REPEATED:
            following.append((i, j + 1))
        if i < len(left) and j < len(right) and _share_character(left[i], right[j]):
            following.append((i + (left[i] not in REPEATED), j + (right[j] not in REPEATED)))
        pending += [state for state in following if state not in visited]
        visited.update(following)
    return False


def _tokenize(text: str) -> list[str]:
    """Return a pattern as tokens; each is a character or one of the constants above."""
    *parts, last = re.split(r"([./])", text)
    if last == ">":
        return [*"".join(parts), ANY, REST]
    return list(text)


def _share_character(one: str, other: str) -> bool:
    """Return whether a character exists that both tokens match."""
    if one in (ANY, REST) or other in (ANY, REST):
        return True
    if one == SEGMENT_PART:
        return other not in SEPARATORS
    if other == SEGMENT_PART:
        return one not in SEPARATORS
    return one == other


@functools.lru_cache(maxsize=1_000)
def compile_expression(
    text: str, *, dot_matches_newline: bool = False, ignores_case: bool = False
) -> Any:
    """Return a regular expression with the methods `search` and `fullmatch`. Raises `ValueError`.

    RE2 takes linear time, whatever the expression: Python's own could take forever.
    """
    # Loaded only where an expression is used.
    import re2

    if len(text) > LONGEST_EXPRESSION:
        raise ValueError(f"a regular expression is longer than {LONGEST_EXPRESSION:,} characters")
    options = re2.Options()
    options.log_errors = False
    options.dot_nl = dot_matches_newline
    options.case_sensitive = not ignores_case
    options.max_mem = EXPRESSION_MEMORY
    try:
        return re2.compile(text, options)
    except re2.error as error:
        reason = error.args[0] if error.args else "invalid"
        reason = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else reason
        raise ValueError(f"the regular expression {text[:60]!r} is wrong: {reason}") from None
