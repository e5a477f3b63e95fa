"""Secrets that Ray hands out in the open: those in runtime environments, commands and addresses.

Ray masks `env_vars` for browsers alone (`ray.dashboard.runtime_env_redaction`); whoever asks as a
program does is given their values.
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
"""What is in a name whose value is a secret."""
QUOTED: Final = "|".join(
    # Within other quotes, and in its own.
    rf"\\{{1,8}}{it}[^{it}\\]*(?:\\{{1,8}}{it}|$)|{it}(?:[^{it}\\]|\\[\s\S])*(?:{it}|\\?$)"
    for it in ('"', "'")
)
"""A text in quotes, be it written within others, or cut off."""
ASSIGNED: Final = re.compile(
    # A number after a colon is a line of a file, or a port.
    r"(?P<between>\\{0,8}[\"']?\s*(?:=|:(?!\d+\b))\s*)"
    rf"(?P<value>{QUOTED}|[^\s&;,\"']+)"
)
OPTION_NAME: Final = re.compile(r"(?:\A|\s)-")
OPTION: Final = re.compile(rf"(?P<between>\s+)(?P<value>{QUOTED}|[^\s-]\S*)")
BEARER: Final = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}")
CREDENTIALS: Final = re.compile(r"(?<=://)[^/@\s\"']+@")
VARIABLES: Final = frozenset(("env_vars", "_inherited_env_vars"))
DEEPEST: Final = 12


def masked(text: str) -> str:
    """The text with what looks like a secret hidden: values of options, variables and parameters
    whose names say so, bearer tokens, and user and password in an address."""
    text = CREDENTIALS.sub(f"{MASK}@", text)
    text = BEARER.sub(rf"\1 {MASK}", text)
    parts, at = list[str](), 0
    # Each name is looked at once: one expression for names and values takes for ever on some texts.
    for name in NAME.finditer(text):
        if name.start() < at or SECRETIVE.search(name[0]) is None:
            continue
        value = ASSIGNED.match(text, name.end())
        if value is None and OPTION_NAME.match(text, max(0, name.start() - 1)):
            value = OPTION.match(text, name.end())
        if value is not None:
            parts += [text[at : name.end()], value["between"], MASK]
            at = value.end()
    return "".join(parts) + text[at:]


def masked_tree(value: Any, depth: int = 0) -> Any:
    """The same for a runtime environment or metadata, where every environment variable is hidden
    but for its name."""
    if depth > DEEPEST:
        return MASK
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, Mapping):
        return {
            str(name): {str(it): MASK for it in inner}
            if name in VARIABLES and isinstance(inner, Mapping)
            else MASK
            if name in VARIABLES or (SECRETIVE.search(str(name)) and inner is not None)
            else masked_tree(inner, depth + 1)
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [masked_tree(it, depth + 1) for it in value]
    return value
