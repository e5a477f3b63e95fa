"""Redaction of secrets in runtime environments, commands, messages, logs and addresses.

Ray redacts `env_vars` for browsers only (`ray.dashboard.runtime_env_redaction`); other clients
receive the values.
"""

from collections.abc import Mapping
from typing import Any, Final

from almenara.sdk import is_secret_name, mask_secrets

MASK: Final = "***"
VARIABLES: Final = frozenset(("env_vars", "_inherited_env_vars"))
DEPTH_LIMIT: Final = 12


def redact(text: str) -> str:
    """Return the text with likely secrets replaced."""
    return mask_secrets(text, MASK)


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
    if is_secret_name(name) and value is not None:
        return MASK
    return redact_tree(value, depth + 1)
