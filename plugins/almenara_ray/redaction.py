"""Redaction of secrets in runtime environments, commands, messages, logs and addresses.

Ray redacts `env_vars` for browsers only (`ray.dashboard.runtime_env_redaction`); other clients
receive the values.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

MASK: Final = "***"
NAME: Final = re.compile(r"[A-Za-z0-9_.-]+")
SECRETIVE: Final = re.compile(
    r"(?i)password|passwd|secret|token(?!s|iz)|api[_-]?key|access[_-]?key|private[_-]?key"
    r"|credential|signature"
)
"""Part of a name whose value is a secret."""
QUOTED: Final = "|".join(
    # Escaped within another quoted text, and not.
    rf"\\{{1,8}}{quote}[^{quote}\\]*(?:\\{{1,8}}{quote}|$)"
    rf"|{quote}(?:[^{quote}\\]|\\[\s\S])*(?:{quote}|\\?$)"
    for quote in ('"', "'")
)
"""A quoted text, which may be escaped within another one, or cut off."""
ASSIGNED: Final = re.compile(
    # A number after a colon is a line number or a port, not a value.
    r"(?P<between>\\{0,8}[\"']?\s*(?:=|:(?!\d+\b))\s*)"
    rf"(?P<value>{QUOTED}|[^\s&;,\"']+)"
)
OPTION_NAME: Final = re.compile(r"(?:\A|\s)-")
OPTION: Final = re.compile(rf"(?P<between>\s+)(?P<value>{QUOTED}|[^\s-]\S*)")
BEARER: Final = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}")
CREDENTIALS: Final = re.compile(r"(?<=://)[^/@\s\"']+@")
VARIABLES: Final = frozenset(("env_vars", "_inherited_env_vars"))
DEPTH_LIMIT: Final = 12


def redact(text: str) -> str:
    """Return the text with likely secrets replaced: values of options, variables and parameters
    with secretive names, bearer tokens, and user and password in an address."""
    text = CREDENTIALS.sub(f"{MASK}@", text)
    text = BEARER.sub(rf"\1 {MASK}", text)
    parts, position = list[str](), 0
    # Match names first and a value only after a secretive one: a single expression for both takes
    # time quadratic in the length of some texts.
    for name in NAME.finditer(text):
        if name.start() < position or SECRETIVE.search(name[0]) is None:
            continue
        value = ASSIGNED.match(text, name.end())
        if value is None and OPTION_NAME.match(text, max(0, name.start() - 1)):
            value = OPTION.match(text, name.end())
        if value is not None:
            parts += [text[position : name.end()], value["between"], MASK]
            position = value.end()
    return "".join(parts) + text[position:]


def redact_tree(value: Any, depth: int = 0) -> Any:
    """Return a runtime environment or metadata with likely secrets replaced, and with the value of
    every environment variable replaced."""
    if depth > DEPTH_LIMIT:
        return MASK
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {str(name): _redact_member(str(name), inner, depth) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redact_tree(element, depth + 1) for element in value]
    return value


def _redact_member(name: str, value: Any, depth: int) -> Any:
    if name in VARIABLES:
        if isinstance(value, Mapping):
            return {str(variable): MASK for variable in value}
        return MASK
    if SECRETIVE.search(name) and value is not None:
        return MASK
    return redact_tree(value, depth + 1)
