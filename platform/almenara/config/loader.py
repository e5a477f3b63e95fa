"""Loading: a YAML file, overridden by `ALMENARA_*` environment variables, as typed settings.

`ALMENARA_SERVER__PORT=9000` sets `server.port`; two underscores separate the levels.
"""

import os
import re
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, get_args, get_origin

import msgspec

from almenara.config.model import Settings, nested_structs
from almenara.config.secrets import Secret
from almenara.config.suggestions import suggest, suggest_number
from almenara.config.type_words import describe_mismatch, name_type, show_value
from almenara.config.yaml_text import YamlError, parse_yaml
from almenara.errors import ConfigError
from almenara.urls import redact_urls

ENVIRONMENT_PREFIX: Final = "ALMENARA_"
SECRET_NAME_PARTS: Final = ("password", "token", "secret", "nkey", "seed")
"""A setting with one of these in its name may hold a secret, whatever its type."""
SECRET_ERROR: Final = "secret: "  # noqa: S105
"""Marks the errors of secrets, since msgspec wraps them in its own."""
ENUM_ERROR: Final = "Invalid enum value"
NUMBER_ERROR: Final = re.compile(r"Expected `(int|float)( \| null)?`, got `str`")
PLAIN_WORD: Final = re.compile(r"[A-Za-z]{0,12}|[0-9.]{0,6}")
MAX_SHOWN_VALUE: Final = 120

S = typing.TypeVar("S", bound=msgspec.Struct)


def load_settings(path: Path | None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings of the file at `path`, or the defaults, overridden by the environment.

    Raises `ConfigError` for a file that cannot be read and for an unknown or wrong setting.
    """
    tree: Any = {}
    if path is not None:
        try:
            tree = parse_yaml(path.read_text(encoding="utf-8")) or {}
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be read: {error.strerror}. Check the path of --config."
            ) from None
        except UnicodeDecodeError:
            raise ConfigError(f"{path} is not YAML: it is not UTF-8 text") from None
        except YamlError as error:
            raise ConfigError(f"{path} is not YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} contains {name_type(tree)}, expected `name: value` lines")
    apply_environment(tree, environment)
    return decode_settings(Settings, tree, place="")


def apply_environment(tree: dict[str, Any], environment: Mapping[str, str]) -> None:
    """Set `tree["a"]["b"]` for every `ALMENARA_A__B=value`; the value is parsed as YAML."""
    for name, text in environment.items():
        if not name.startswith(ENVIRONMENT_PREFIX):
            continue
        *sections, last = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        if not sections:
            continue
        branch = tree
        for section in sections:
            branch = branch.setdefault(section, {})
            if not isinstance(branch, dict):
                raise ConfigError(f"{name} sets a part of {section}, which is a single value")
        try:
            value = parse_yaml(text)
        except YamlError as error:
            raise ConfigError(f"the environment variable {name} is not YAML: {error}") from None
        # As text, since a secret may look like a number; settings that are numbers convert it.
        branch[last] = text.strip() if isinstance(value, float) else value


def decode_settings(kind: type[S], tree: Any, *, place: str) -> S:
    """Return `tree` as the settings struct `kind`; `place` is the path of the tree.

    Raises `ConfigError` with the path of the setting, its value, what was expected, and for an
    unknown name the closest known one.
    """
    check_setting_names(kind, tree, place)
    try:
        return msgspec.convert(tree, kind, strict=False, dec_hook=_decode_value)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        path = path.rstrip("`")
        setting = f"{place}{path}".lstrip(".") or "the configuration"
        if message.startswith(SECRET_ERROR):
            raise ConfigError(f"{setting}: {message.removeprefix(SECRET_ERROR)}") from None
        value = _displayed_value(kind, tree, path)
        if message.startswith(ENUM_ERROR) and (choices := _literal_choices(kind, path)):
            shown = f", found {value}" if value else ""
            raise ConfigError(f"{setting}: expected one of {choices}{shown}") from None
        hint = suggest_number(value) if NUMBER_ERROR.match(message) else ""
        reason = describe_mismatch(redact_urls(message), value)
        raise ConfigError(f"{setting}: {reason}{hint}") from None
    except Exception as error:
        # msgspec reports a ValueError or TypeError of `__post_init__` as above. The text of any
        # other error may contain a value.
        name = type(error).__name__
        raise ConfigError(
            f"{place or 'the configuration'}: its validation failed with {name}; report this to"
            " the author"
        ) from error


def _decode_value(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value).expanduser()
    if kind is Secret:
        try:
            return Secret.parse(value)
        except ValueError as error:
            raise ValueError(f"{SECRET_ERROR}{error}") from None
    raise msgspec.ValidationError(f"Expected `{kind.__name__}`, got `{type(value).__name__}`")


def check_setting_names(kind: Any, tree: Any, place: str) -> None:
    """Raise `ConfigError` for the first unknown name in `tree`, with the closest known one.

    A struct may have former names of its settings, with the present ones, in `RENAMED`.
    """
    if not isinstance(tree, dict) or not (
        isinstance(kind, type) and issubclass(kind, msgspec.Struct)
    ):
        return
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    for name, value in tree.items():
        path = f"{place}.{name}".lstrip(".")
        if (renamed := getattr(kind, "RENAMED", {}).get(name)) is not None:
            raise ConfigError(f"{path} is not a setting any more; it is named {renamed} now")
        if name not in fields:
            hint = _find_parent(str(name), fields) or suggest(str(name), fields, cutoff=0.55)
            raise ConfigError(f"{path} is not a setting; {hint}")
        _check_nested_names(fields[name].type, value, path)


def _find_parent(name: str, fields: Mapping[str, msgspec.structs.FieldInfo]) -> str:
    """Return where a setting of this name belongs that was written a level too high; empty where
    no section has it."""
    parents = [
        parent
        for parent, field in fields.items()
        for struct in nested_structs(field.type)
        if name in struct.__struct_encode_fields__
    ]
    return f"it belongs under {' or '.join(dict.fromkeys(parents))}" if parents else ""


def _check_nested_names(kind: Any, value: Any, path: str) -> None:
    """Check the names inside a value and, under names that users choose, the values as well."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is list and isinstance(value, list):
        for index, entry in enumerate(value):
            _check_nested_names(arguments[0], entry, f"{path}[{index}]")
    elif origin is dict and isinstance(value, dict):
        for name, entry in value.items():
            _check_nested_names(arguments[1], entry, f"{path}.{name}")
            if isinstance(arguments[1], type) and issubclass(arguments[1], msgspec.Struct):
                # msgspec writes `[...]` for a key of a mapping; decoding the entry alone names it.
                decode_settings(arguments[1], entry, place=f"{path}.{name}")
    elif arguments and origin not in (list, dict):
        for part in arguments:
            check_setting_names(part, value, path)
    else:
        check_setting_names(kind, value, path)


def _types_at(kind: Any, path: str) -> Iterator[Any]:
    """Yield the types along a msgspec path such as `.checks[0].url`, from `kind` to the last."""
    yield kind
    for step in re.findall(r"[A-Za-z_]\w*|\[", path):
        structs = nested_structs(kind) if step != "[" else []
        if structs:
            fields = {field.encode_name: field.type for field in msgspec.structs.fields(structs[0])}
            kind = fields.get(step)
        else:
            # The entry of a list or a mapping, the second of which may also be optional.
            kind = get_args(kind)[-1] if get_args(kind) else kind
        yield kind


def _literal_choices(kind: Any, path: str) -> str:
    """Return the values a `Literal` setting accepts, separated by commas; empty for other types."""
    *_, last = _types_at(kind, path)
    literals = [part for part in (last, *get_args(last)) if get_origin(part) is typing.Literal]
    return ", ".join(str(choice) for literal in literals for choice in get_args(literal))


def _displayed_value(kind: Any, tree: Any, path: str) -> str:
    """Return the value at a msgspec path such as `.server.port`, unless it may be a secret.

    Empty for a whole section: its text would not help, and a secret may be in it. A text beside a
    secret may be the secret on the wrong line, so that only words and numbers are shown there.
    """
    if not path:
        return ""
    value = tree
    for step in path.replace("[", ".").replace("]", "").strip(".").split("."):
        if any(part in step for part in SECRET_NAME_PARTS):
            return "a secret value"
        try:
            value = value[int(step)] if isinstance(value, list) else value[step]
        except (KeyError, IndexError, ValueError, TypeError):
            return ""
    if isinstance(value, dict | list):
        return ""
    *parents, last = _types_at(kind, path)
    may_be_secret = _has_secret(last) or any(
        _has_secret(field.type)
        for parent in parents[-1:]
        for struct in nested_structs(parent)
        for field in msgspec.structs.fields(struct)
    )
    if may_be_secret and isinstance(value, str) and not PLAIN_WORD.fullmatch(value):
        return f"a text of {len(value)} characters"
    return redact_urls(show_value(value))[:MAX_SHOWN_VALUE]


def _has_secret(kind: Any) -> bool:
    """Return whether a value of this type contains a secret."""
    pending, done = [kind], set()
    while pending:
        part = pending.pop()
        if part is Secret:
            return True
        pending += get_args(part)
        if isinstance(part, type) and issubclass(part, msgspec.Struct) and part not in done:
            # A struct may contain itself, as routes do.
            done.add(part)
            pending += [field.type for field in msgspec.structs.fields(part)]
    return False
