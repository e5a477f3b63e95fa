"""An object as people may read it: without what may be secret, and no longer than can be shown."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import yaml

MASKED: Final = "(masked)"
LONGEST_TEXT: Final = 2_000
"""Characters of one text."""
PARTS: Final = 20_000
"""Values of one object."""
DEPTH: Final = 40
SECRETIVE: Final = re.compile(
    r"passw|passphrase|secret|token|credential|api[-_.]?key|private[-_.]?key|access[-_.]?key"
    r"|auth(?!or)|bearer|cookie|dsn\b|connection[-_.]?string|last-applied",
    re.IGNORECASE,
)
"""Names under which secrets are kept."""
REFERENCES: Final = frozenset((
    "secretName", "secretKeyRef", "secretRef", "secret", "tokenExpirationSeconds",
    "serviceAccountToken", "automountServiceAccountToken", "imagePullSecrets",
    "nodePublishSecretRef",
))  # fmt: skip
"""Names that only say where a secret is."""
ARGUMENT: Final = re.compile(r"^(-{0,2}[\w.-]+)(?:(=|:\s*)(.+))?$", re.DOTALL)
IN_TEXT: Final = (
    re.compile(r"(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"),
    re.compile(r"-----BEGIN [^-]*PRIVATE KEY-----.*?(?:-----END [^-]*-----|\Z)", re.DOTALL),
    re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"),
    re.compile(r"(?<=bearer )[\w.~+/=-]{8,}|(?<=basic )[\w+/=]{8,}", re.IGNORECASE),
    re.compile(
        r"(?<![\w-])((?:[\w-]*(?:passw(?:or)?d|secret|token|api[-_]?key|credential)[\w-]*)"
        r"[\"']?\s*[=:]\s*[\"']?)[^\s\"',;&]+",
        re.IGNORECASE,
    ),
)
"""What is secret wherever it stands: passwords in addresses, keys, tokens, `password=`."""
TEXTS: Final = frozenset(("command", "args"))
QUIET_METADATA: Final = ("managedFields", "selfLink")


class _Dumper(yaml.SafeDumper):
    """Lists a step further in, and no anchors: each value is written where it is."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def manifest(tree: Mapping[str, Any]) -> Sequence[str]:
    """The lines of an object as YAML, masked and bounded.

    What is left out for its length is said in the last line.
    """
    shown, left = masked(tree)
    text: str = yaml.dump(shown, Dumper=_Dumper, sort_keys=False, width=10_000)
    lines = text.splitlines()
    return [*lines, f"# {left}"] if left else lines


def masked(tree: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """An object without its secrets, and what was left out, where anything was."""
    walk = _Walk()
    kept = {name: it for name, it in tree.items() if name not in ("data", "stringData")}
    metadata = kept.get("metadata")
    if isinstance(metadata, dict):
        kept["metadata"] = {name: it for name, it in metadata.items() if name not in QUIET_METADATA}
    found = walk.mapping(kept, 0)
    return found, walk.left


class _Walk:
    def __init__(self) -> None:
        self.parts, self.left = 0, ""

    def mapping(self, tree: Mapping[str, Any], depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, it in tree.items():
            if not self._room(depth):
                break
            found[text(str(name))] = self._member(str(name), it, depth)
        return found

    def _member(self, name: str, it: Any, depth: int) -> Any:
        if name in ("env", "httpHeaders") and isinstance(it, list):
            return self._items([_without_value(one) for one in it], depth)
        if name in TEXTS and isinstance(it, list):
            return self._items(arguments(it), depth)
        if name == "annotations" and isinstance(it, dict):
            return self.mapping({key: _annotation(one) for key, one in it.items()}, depth + 1)
        if name not in REFERENCES and SECRETIVE.search(name) and isinstance(it, str) and it:
            return MASKED
        return self._value(it, depth + 1)

    def _value(self, it: Any, depth: int) -> Any:
        if isinstance(it, dict):
            return self.mapping(it, depth)
        if isinstance(it, list):
            return self._items(it, depth)
        return text(it) if isinstance(it, str) else it

    def _items(self, found: Sequence[Any], depth: int) -> list[Any]:
        shown: list[Any] = []
        for it in found:
            if not self._room(depth):
                break
            shown.append(self._value(it, depth + 1))
        return shown

    def _room(self, depth: int) -> bool:
        self.parts += 1
        if depth > DEPTH:
            self.left = self.left or f"what is more than {DEPTH} levels deep is left out"
            return False
        if self.parts > PARTS:
            self.left = f"only the first {PARTS:,} values are shown"
            return False
        return True


def _without_value(one: Any) -> Any:
    if not isinstance(one, dict) or not one.get("value"):
        return one
    return {**one, "value": MASKED}


def _annotation(it: Any) -> Any:
    # A copy of the object, or of anything else: nobody can say what is in it.
    if isinstance(it, str) and (it.lstrip()[:1] in ("{", "[") or "\n" in it.strip()):
        return f"{MASKED[:-1]}, {len(it):,} characters)"
    return it


def arguments(found: Sequence[Any]) -> list[Any]:
    """A command line, without the values of what is named like a secret."""
    shown: list[Any] = []
    secret = False
    for it in found:
        if not isinstance(it, str):
            shown.append(it)
            continue
        match = ARGUMENT.match(it)
        if secret and not it.startswith("-"):
            shown.append(MASKED)
            secret = False
            continue
        secret = False
        if match is not None and SECRETIVE.search(match[1]):
            if match[3]:
                it = f"{match[1]}{match[2]}{MASKED}"
            else:
                secret = match[1].startswith("-")
        shown.append(it)
    return shown


def text(it: str) -> str:
    """A text without what is a secret wherever it stands, and no longer than is shown."""
    for pattern in IN_TEXT:
        it = pattern.sub(_hidden, it)
    if len(it) > LONGEST_TEXT:
        return f"{it[:LONGEST_TEXT]}\u2026 ({len(it):,} characters)"
    return it


def _hidden(match: "re.Match[str]") -> str:
    return (match[1] if match.re.groups else "") + MASKED
