"""Types and limits of settings in the words of people who write YAML."""

import re
from typing import Any, Final

TYPES: Final = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "array": "a list",
    "object": "`name: value` lines",
    "Path": "a path",
    "null": "null",
}
"""By the names of msgspec and of `_decode_value`."""
PYTHON_NAMES: Final = {"list": "array", "dict": "object", "NoneType": "null"}
EXPECTED: Final = re.compile(r"Expected `(?P<types>[^`]+)`(?P<limit>.*?)(?:, got (?P<got>.+))?")
LIMITS: Final = (
    (re.compile(r" >= (\S+)"), " of at least {}"),
    (re.compile(r" > (\S+)"), " above {}"),
    (re.compile(r" <= (\S+)"), " of at most {}"),
    (re.compile(r" < (\S+)"), " below {}"),
    (re.compile(r" that's a multiple of (\S+)"), " that is a multiple of {}"),
    (re.compile(r" matching regex (.+)"), " that matches {}"),
    (re.compile(r" of length >= (\d+)"), " with at least {} {parts}"),
    (re.compile(r" of length <= (\d+)"), " with at most {} {parts}"),
    (re.compile(r" of length (\d+)"), " with {} {parts}"),
)
MISSING: Final = re.compile(r"Object missing required field `([^`]+)`")


def name_type(value: Any) -> str:
    """Return what a value is: `a text`."""
    name = type(value).__name__
    return _name(PYTHON_NAMES.get(name, name))


def show_value(value: Any) -> str:
    """Return a value as YAML has it; a text is quoted."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return repr(value)


def describe_mismatch(message: str, value: str) -> str:
    """Return what msgspec reports of a wrong setting in words: what was expected, and what it is.

    `value` is the value as it may be displayed; empty where it may not. Messages of validations
    are in words already.
    """
    if (missing := MISSING.fullmatch(message)) is not None:
        return f"{missing[1]} is missing"
    match = EXPECTED.fullmatch(message)
    if match is None:
        return f"{message}, found {value}" if value else message
    types = match["types"].split(" | ")
    expected = " or ".join(_name(each) for each in types) + _describe_limit(match["limit"], types)
    got = match["got"] or ""
    found = value or (_name(got.strip("`")) if got.startswith("`") else got)
    return f"expected {expected}, found {found}" if found else f"expected {expected}"


def _describe_limit(limit: str, types: list[str]) -> str:
    one, several = ("character", "characters") if types[0] == "str" else ("entry", "entries")
    for pattern, words in LIMITS:
        if (match := pattern.fullmatch(limit)) is not None:
            number = match[1].removesuffix(".0")
            return words.format(number, parts=one if number == "1" else several)
    return limit


def _name(kind: str) -> str:
    return TYPES.get(kind, f"`{kind}`")
