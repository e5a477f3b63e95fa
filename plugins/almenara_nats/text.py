"""Text that comes from messages, made fit to be a name, an attribute or a reason."""

import hashlib
import re
from typing import Any, Final

LONGEST_NAME: Final = 512
"""Characters of an id, type, subject or correlation; longer ones are cut and end in a hash."""
LONGEST_ATTRIBUTE_NAME: Final = 128
LONGEST_ATTRIBUTE: Final = 1024
MOST_ATTRIBUTES: Final = 64
FIRST_ATTRIBUTES: Final = ("traceparent", "tracestate", "nats_subject")
"""Attributes that are searched for most, and are stored first."""
CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def replace_control_characters(text: str) -> str:
    """Return the text with U+FFFD in place of control characters and surrogates."""
    return CONTROL.sub("\ufffd", text)


def to_text(value: Any) -> str:
    """Return a string or an integer as text; empty for any other value."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 64:
        return str(value)
    return ""


def bound_name(text: str, field: str, problems: list[str]) -> str:
    """Return the text as a name: of bounded length and without control characters."""
    if len(text) <= LONGEST_NAME and text.isprintable():
        return text
    if len(text) > LONGEST_NAME:
        problems.append(f"its {field} has {len(text):,} characters and is cut")
        text = _cut(text, _digest(text))
    clean = replace_control_characters(text)
    if clean != text:
        if field == "id":
            # Two ids that differ in control characters only remain two.
            clean = _cut(clean, _digest(text))
        problems.append(f"its {field} contains control characters, shown as \ufffd")
    return clean


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest()


def _cut(text: str, digest: str) -> str:
    return f"{text[: LONGEST_NAME - len(digest) - 1]}~{digest}"


def bound_attributes(attributes: dict[str, str], problems: list[str]) -> dict[str, str]:
    """Return attributes of bounded number and length, without control characters."""
    if len(attributes) > MOST_ATTRIBUTES:
        problems.append(
            f"it has {len(attributes)} headers and attributes; {MOST_ATTRIBUTES} are stored"
        )
        first = [name for name in FIRST_ATTRIBUTES if name in attributes]
        rest = [name for name in attributes if name not in first]
        attributes = {name: attributes[name] for name in (first + rest)[:MOST_ATTRIBUTES]}
    bounded = {}
    for name, value in attributes.items():
        key = replace_control_characters(name[:LONGEST_ATTRIBUTE_NAME])
        if len(value) > LONGEST_ATTRIBUTE:
            problems.append(f"{key} has {len(value):,} characters; {LONGEST_ATTRIBUTE} are stored")
            value = value[:LONGEST_ATTRIBUTE]
        bounded[key] = replace_control_characters(value)
    return bounded
