"""Objects as viewers may read them: without what may be secret, and bounded in size."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import yaml

from almenara.sdk import is_secret_name, mask_secrets

MASKED: Final = "(masked)"
LONGEST_TEXT: Final = 2_000
"""Characters of one text."""
PARTS: Final = 20_000
"""Values of one object."""
DEPTH: Final = 40
LAST_APPLIED: Final = "last-applied"
"""Part of the names of annotations that hold a copy of the object."""
REFERENCES: Final = frozenset((
    "secretName", "secretKeyRef", "secretRef", "secret", "tokenExpirationSeconds",
    "serviceAccountToken", "automountServiceAccountToken", "imagePullSecrets",
    "nodePublishSecretRef",
))  # fmt: skip
"""Names of members that only refer to a secret."""
ARGUMENT: Final = re.compile(r"^(-{0,2}[\w.-]+)(?:(=|:\s*)(.+))?$", re.DOTALL)
COMMAND_LINES: Final = frozenset(("command", "args"))
DROPPED_METADATA: Final = ("managedFields", "selfLink")


class _Dumper(yaml.SafeDumper):
    """Indents lists by one more step, and writes values instead of anchors."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def render_manifest(tree: Mapping[str, Any]) -> Sequence[str]:
    """The lines of an object as YAML, masked and bounded; the last one says what is left out."""
    shown, left_out = mask(tree)
    text: str = yaml.dump(shown, Dumper=_Dumper, sort_keys=False, width=10_000)
    lines = text.splitlines()
    return [*lines, f"# {left_out}"] if left_out else lines


def mask(tree: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """An object without its secrets, and a sentence on what was left out."""
    walk = _Walk()
    members = {name: value for name, value in tree.items() if name not in ("data", "stringData")}
    metadata = members.get("metadata")
    if isinstance(metadata, dict):
        members["metadata"] = {
            name: value for name, value in metadata.items() if name not in DROPPED_METADATA
        }
    return walk.mapping(members, 0), walk.left_out


class _Walk:
    """Copies a tree, masked, and counts its values."""

    def __init__(self) -> None:
        self.parts, self.left_out = 0, ""

    def mapping(self, tree: Mapping[str, Any], depth: int) -> dict[str, Any]:
        members: dict[str, Any] = {}
        for name, value in tree.items():
            if not self._has_room(depth):
                break
            members[mask_text(str(name))] = self._member(str(name), value, depth)
        return members

    def _member(self, name: str, value: Any, depth: int) -> Any:
        if name in ("env", "httpHeaders") and isinstance(value, list):
            return self._items([_without_value(entry) for entry in value], depth)
        if name in COMMAND_LINES and isinstance(value, list):
            return self._items(mask_arguments(value), depth)
        if name == "annotations" and isinstance(value, dict):
            masked = {key: _annotation(annotation) for key, annotation in value.items()}
            return self.mapping(masked, depth + 1)
        if isinstance(value, str) and value and _holds_secret(name):
            return MASKED
        return self._value(value, depth + 1)

    def _value(self, value: Any, depth: int) -> Any:
        if isinstance(value, dict):
            return self.mapping(value, depth)
        if isinstance(value, list):
            return self._items(value, depth)
        return mask_text(value) if isinstance(value, str) else value

    def _items(self, values: Sequence[Any], depth: int) -> list[Any]:
        items: list[Any] = []
        for value in values:
            if not self._has_room(depth):
                break
            items.append(self._value(value, depth + 1))
        return items

    def _has_room(self, depth: int) -> bool:
        self.parts += 1
        if depth > DEPTH:
            self.left_out = self.left_out or f"what is more than {DEPTH} levels deep is left out"
            return False
        if self.parts > PARTS:
            self.left_out = f"only the first {PARTS:,} values are shown"
            return False
        return True


def _holds_secret(name: str) -> bool:
    return name not in REFERENCES and (is_secret_name(name) or LAST_APPLIED in name)


def _without_value(entry: Any) -> Any:
    if not isinstance(entry, dict) or not entry.get("value"):
        return entry
    return {**entry, "value": MASKED}


def _annotation(value: Any) -> Any:
    # Often a copy of the object, or of another: its contents are unknown.
    if isinstance(value, str) and (value.lstrip()[:1] in ("{", "[") or "\n" in value.strip()):
        return f"{MASKED[:-1]}, {len(value):,} characters)"
    return value


def mask_arguments(values: Sequence[Any]) -> list[Any]:
    """A command line, without the values of arguments that are named like secrets."""
    arguments: list[Any] = []
    is_secret = False
    for value in values:
        if not isinstance(value, str):
            arguments.append(value)
            continue
        match = ARGUMENT.match(value)
        if is_secret and not value.startswith("-"):
            arguments.append(MASKED)
            is_secret = False
            continue
        is_secret = False
        argument = value
        if match is not None and is_secret_name(match[1]):
            if match[3]:
                argument = f"{match[1]}{match[2]}{MASKED}"
            else:
                is_secret = match[1].startswith("-")
        arguments.append(argument)
    return arguments


def mask_text(text: str) -> str:
    """A text without secrets, and no longer than is displayed."""
    text = mask_secrets(text, MASKED)
    if len(text) > LONGEST_TEXT:
        return f"{text[:LONGEST_TEXT]}\u2026 ({len(text):,} characters)"
    return text
