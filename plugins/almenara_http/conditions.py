"""Conditions on a response: a subject, an operator and, for most, a value.

json items[0].state == "ok"
header content-type matches ^application/json
body not contains error
version == HTTP/2
"""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from almenara.sdk import compile_expression, is_secret_name, suggest

SUBJECTS: Final = ("json", "header", "body", "version")
ORDERS: Final[dict[str, Callable[[float, float], bool]]] = {
    "<": lambda one, other: one < other,
    "<=": lambda one, other: one <= other,
    ">": lambda one, other: one > other,
    ">=": lambda one, other: one >= other,
}
WORDS: Final = ("contains", "matches", "exists")
"""Operators that can have `not` in front."""
OPERATORS: Final = ("==", "!=", *ORDERS, *WORDS)
STEP: Final = re.compile(
    r"""\.?(?P<key>[^\s.\[\]"=!<>]+)|\[(?P<index>-?\d{1,9})\]|\[(?P<quoted>"(?:[^"\\]|\\.)*")\]"""
)
"""One step of a path: a key, the place in a list, or a key in quotes."""
HEADER: Final = re.compile(r"[A-Za-z0-9_.-]+")
LONGEST: Final = 1_000
SHOWN: Final = 60
"""Characters of a value that a failure shows."""

Path = tuple[str | int, ...]


class _Missing:
    """What a response does not have."""


MISSING: Final = _Missing()


class Condition(msgspec.Struct, frozen=True):
    """What must hold for a response."""

    subject: str
    path: Path
    """Keys and places of a JSON value, or the name of a header; empty for the whole."""
    operator: str
    value: Any = None
    """Text, number, boolean or None; for `matches` the regular expression."""
    is_negated: bool = False
    text: str = ""
    """The condition in failures: as it is configured, unless its value may be a secret."""


@functools.lru_cache(maxsize=10_000)
def parse_condition(text: str) -> Condition:
    """Parse a condition. Raises `ValueError` that says what was expected where."""
    if len(text) > LONGEST:
        raise ValueError(f"it is longer than {LONGEST:,} characters")
    subject, rest = _split_word(text.strip())
    if subject not in SUBJECTS:
        hint = suggest(subject, SUBJECTS)
        raise ValueError(f"it starts with json, header, body or version, not {subject!r}; {hint}")
    path: Path = ()
    if subject == "json":
        path, rest = _parse_path(rest)
    elif subject == "header":
        name = HEADER.match(rest)
        if name is None:
            raise ValueError("the name of a header is expected after `header`")
        path, rest = (name[0].lower(),), rest[name.end() :].lstrip()
    is_negated = rest.startswith("not ")
    operator, rest = _split_operator(rest.removeprefix("not ").lstrip())
    if operator not in OPERATORS or (is_negated and operator not in WORDS):
        known = WORDS if is_negated else OPERATORS
        hint = "did you mean ==?" if operator == "=" else suggest(operator, known)
        place = f"after {'not' if is_negated else subject}"
        if not operator:
            raise ValueError(f"an operator is expected {place}; {hint}")
        raise ValueError(f"{operator[:SHOWN]!r} {place} is not an operator; {hint}")
    value = _parse_value(operator, rest)
    shown = text.strip()[:200]
    if is_secret(path):
        shown = shown.removesuffix(rest).rstrip()
    return Condition(subject, path, operator, value, is_negated, shown)


def is_secret(path: Path) -> bool:
    """Whether the value at a path or of a header may be a secret, by its name."""
    return any("token" in part.lower() or is_secret_name(part) for part in map(str, path))


def _split_word(text: str) -> tuple[str, str]:
    word, _, rest = text.partition(" ")
    return word, rest.lstrip()


def _split_operator(text: str) -> tuple[str, str]:
    """The operator at the start, which need not have a space behind it, and the rest."""
    sign = re.match(r"[=!<>]+|[^\s=!<>]*", text)
    end = sign.end() if sign is not None else 0
    return text[:end], text[end:].strip()


def _parse_path(text: str) -> tuple[Path, str]:
    """The path at the start, and the rest. `$` stands for the whole value."""
    steps: list[str | int] = []
    position = 1 if text.startswith("$") else 0
    is_whole = position == 1
    while (step := STEP.match(text, position)) is not None:
        if step["index"] is not None:
            steps.append(int(step["index"]))
        elif step["quoted"] is not None:
            steps.append(_decode(step["quoted"]))
        elif position == 0 or step[0].startswith("."):
            steps.append(step["key"])
        else:
            break
        position = step.end()
    if not (steps or is_whole) or text[position : position + 1] in (".", "[", "]", '"'):
        raise ValueError(
            f"a path such as a.b[0].c is expected at {text[position : position + 20]!r}; a name"
            ' with other characters is written ["in quotes"], and $ is the whole body'
        )
    return tuple(steps), text[position:].lstrip()


def _decode(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        raise ValueError(f"{text[:SHOWN]} is not a text in quotes") from None


def _parse_value(operator: str, text: str) -> Any:
    if operator == "exists":
        if text:
            raise ValueError(f"nothing is expected after exists, not {text[:SHOWN]!r}")
        return None
    if not text:
        raise ValueError(f"a value is expected after {operator}")
    if operator == "matches":
        return compile_expression(text)
    if text.startswith('"'):
        return _decode(text)
    try:
        value = msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        value = text
    if operator in ORDERS and not _is_number(value):
        raise ValueError(f"a number is expected after {operator}, not {text[:SHOWN]!r}")
    if isinstance(value, dict | list):
        raise ValueError("the value is a text, a number, true, false or null")  # noqa: TRY004
    return text if operator == "contains" else value


class ResponseContent:
    """What conditions test, decoded when first needed."""

    def __init__(
        self, headers: Mapping[str, str], version: str, body: str, cut_at: int | None = None
    ) -> None:
        self.headers, self.version, self.body = headers, version, body
        self.cut_at = cut_at
        """The limit at which the body was cut, in bytes; None where it is complete."""

    @functools.cached_property
    def json(self) -> Any:
        """The value of the body. Raises `ValueError`."""
        try:
            return msgspec.json.decode(self.body.removeprefix("\ufeff"))
        except (msgspec.MsgspecError, RecursionError) as error:
            if self.cut_at is not None:
                raise ValueError(
                    f"the body is longer than body_limit ({self.cut_at:,} bytes), so that its JSON"
                    " is not complete"
                ) from None
            kind = self.headers.get("content-type", "").partition(";")[0][:SHOWN]
            origin = f" (content-type {kind})" if kind else ""
            reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:100]
            raise ValueError(f"the body{origin} is not JSON: {reason}") from None

    def find(self, condition: Condition) -> Any:
        """The value that a condition is about, or `MISSING`. Raises `ValueError`."""
        if condition.subject == "header":
            return self.headers.get(str(condition.path[0]), MISSING)
        if condition.subject == "json":
            return find_value(self.json, condition.path)
        return self.body if condition.subject == "body" else self.version


def find_value(tree: Any, path: Path) -> Any:
    """The value at a path of a JSON value; `MISSING` where there is no such key or place."""
    for step in path:
        if isinstance(tree, dict) and isinstance(step, str):
            tree = tree.get(step, MISSING)
        elif isinstance(tree, list) and isinstance(step, int):
            tree = tree[step] if -len(tree) <= step < len(tree) else MISSING
        else:
            return MISSING
    return tree


def explain_failure(condition: Condition, content: ResponseContent) -> str | None:
    """Why a condition does not hold, in one line; None where it holds."""
    try:
        value = content.find(condition)
    except ValueError as error:
        return f"{error}; expected: {condition.text}"
    if condition.operator == "exists":
        holds = (value is not MISSING) != condition.is_negated
    elif value is MISSING:
        # Also for `!=` and `not`: what is absent proves nothing.
        return f"{_name(condition)} does not exist; expected: {condition.text}"
    else:
        holds = _holds(condition, value) != condition.is_negated
    if holds:
        return None
    shown = "does not exist" if value is MISSING else f"is {_show(condition, value)}"
    return f"{_name(condition)} {shown}; expected: {condition.text}"


def _holds(condition: Condition, value: Any) -> bool:
    operator, expected = condition.operator, condition.value
    if operator == "matches":
        return expected.search(_as_text(value)) is not None
    if operator == "contains":
        if isinstance(value, list):
            return any(_as_text(item) == expected for item in value)
        return expected in _as_text(value)
    if condition.subject != "json" and _is_number(expected):
        # Everything in a header is text.
        value = _as_number(value)
    if operator in ORDERS:
        return _is_number(value) and ORDERS[operator](value, expected)
    is_equal = type(value) is type(expected) or (_is_number(value) and _is_number(expected))
    return (is_equal and value == expected) == (operator == "==")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _as_number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _name(condition: Condition) -> str:
    if condition.subject == "header":
        return f"header {condition.path[0]}"
    if condition.subject != "json":
        return condition.subject if condition.subject == "version" else "the body"
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in condition.path)
    return f"json {path.removeprefix('.') or '$'}"


def _show(condition: Condition, value: Any) -> str:
    """A value in a failure; what may be a secret or is long only by its kind."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return f"a list of {len(value):,}"
    if condition.subject == "body":
        return f"a text of {len(value):,} characters"
    if isinstance(value, str):
        if is_secret(condition.path):
            return "a text that may be a secret"
        return f"{value[:SHOWN]!r}{'…' if len(value) > SHOWN else ''}"
    return _as_text(value)
