"""YAML as people mean it in a configuration, and errors that do not quote its values.

Numbers and dates in the looser forms of YAML 1.1 stay text, so that a password `0123` is not read
as 83 and `12:30` not as 750; and a key that is there twice is an error, because the first value
would be lost silently.
"""

import re
from typing import Any, Final

import yaml

CONTENT_ERRORS: Final = (yaml.constructor.ConstructorError, yaml.composer.ComposerError)
CONTENT_PROBLEM: Final = re.compile(r"\b(tag|alias|anchor|directive)\b")
DECIMAL: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]*)$")
INT_TAG: Final = "tag:yaml.org,2002:int"
TIMESTAMP_TAG: Final = "tag:yaml.org,2002:timestamp"
MERGE_TAG: Final = "tag:yaml.org,2002:merge"


class YamlError(ValueError):
    """A text is not YAML; the text of the error contains no value."""


class DuplicateKey(yaml.MarkedYAMLError):
    """A mapping has a key twice."""


class SettingsLoader(yaml.SafeLoader):
    """Reads decimal integers only, no timestamps, and refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping of a node. Raises `DuplicateKey`."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != MERGE_TAG:
                if key.value in seen:
                    raise DuplicateKey(
                        problem=f"`{key.value}` is there twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


SettingsLoader.yaml_implicit_resolvers = {
    first: [
        (tag, DECIMAL if tag == INT_TAG else pattern)
        for tag, pattern in resolvers
        if tag != TIMESTAMP_TAG
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML text. Raises `YamlError`."""
    try:
        return yaml.load(text, SettingsLoader)  # noqa: S506  # nosec B506 # nosemgrep: unsafe-reading # it is a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise YamlError(_describe(error)) from None


def _describe(error: BaseException) -> str:
    """Return the problem and its place, without the text at that place, which may be a secret."""
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = error.problem or error.context or "invalid syntax"
        if isinstance(error, CONTENT_ERRORS) or re.search(CONTENT_PROBLEM, problem):
            # These errors quote the value.
            problem = "a value that starts with `!`, `&`, `*` or `%` must be in quotes"
        return f"{problem}{place}"
    if isinstance(error, yaml.reader.ReaderError):
        return f"it contains the character U+{error.character:04X}, which YAML does not allow"
    return "a value is not valid"
