"""The references of all settings and of the contract, written from the code."""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

import msgspec

from almenara import API_VERSION, hookspecs, sdk
from almenara.config import Secret, Settings
from almenara.plugins import PluginRegistry

HEAD: Final = """# Configuration

One YAML file, given as `almenara --config FILE`, holds every setting; all of them may be left out.
Each can be set from the environment as well, which wins: `ALMENARA_SERVER__PORT=9000` is
`server.port`, with two underscores between the levels and YAML as the value.

This page is written by `almenara config document` from the types that read the file.
"""


def settings_reference(plugins: PluginRegistry) -> str:
    """Markdown that lists every setting of the core and of the installed plugins."""
    fields = msgspec.structs.fields(Settings)
    sections = {it.name for it in fields if _type(it.type) == "section"}
    parts = [HEAD, "## At the top\n", *_table(Settings, "setting", leaving_out=sections)]
    for field in fields:
        for inner in structs_in(field.type):
            parts += _section(field.name, inner)
    for name in plugins.modules:
        kind = plugins.settings_type(name)
        if kind is not None:
            parts += _section(f"plugins.{name}", kind)
    return "\n".join(parts).rstrip() + "\n"


def _section(place: str, kind: type[msgspec.Struct]) -> Iterator[str]:
    yield f"## `{place}`\n"
    if kind.__doc__:
        yield f"{inspect.cleandoc(kind.__doc__)}\n"
    yield from _table(kind, "setting")
    for field in msgspec.structs.fields(kind):
        for inner in structs_in(field.type):
            yield from _section(f"{place}.{field.encode_name}", inner)


def _table(kind: type[msgspec.Struct], what: str, leaving_out: Set[str] = frozenset()) -> list[str]:
    """Each field of a struct as a row of a table."""
    told = attribute_docs(kind)
    rows = [f"| {what} | type | default | meaning |", "|---|---|---|---|"]
    for field in msgspec.structs.fields(kind):
        if field.name not in leaving_out:
            text = " ".join(told.get(field.name, "").split())
            rows.append(
                f"| `{field.encode_name}` | {_type(field.type)} | {_default(field)} | {text} |"
            )
    return [*rows, ""]


def attribute_docs(kind: type) -> dict[str, str]:
    """The strings that follow the fields in the source of a class and of those it builds on."""
    told: dict[str, str] = {}
    for part in reversed(kind.__mro__):
        if part not in (object, msgspec.Struct):
            told |= _own_docs(part)
    return told


def _own_docs(kind: type) -> dict[str, str]:
    try:
        source = inspect.getsource(kind)
    except (OSError, TypeError):
        return {}
    (body,) = ast.parse(textwrap.dedent(source)).body
    if not isinstance(body, ast.ClassDef):
        return {}
    found: dict[str, str] = {}
    name = ""
    for statement in body.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            name = statement.target.id
        elif (
            name
            and isinstance(statement, ast.Expr)
            and isinstance(statement.value, ast.Constant)
            and isinstance(statement.value.value, str)
        ):
            found[name] = statement.value.value
            name = ""
    return found


NAMES: Final[dict[Any, str]] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "yes or no",
    Path: "path",
    Secret: "secret",
}


def _type(kind: Any) -> str:
    if get_origin(kind) is Callable:
        return "function"
    if kind is type(None):
        return "nothing"
    if kind in NAMES:
        return NAMES[kind]
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return "section"
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(f"`{it}`" for it in inner)
    if origin is list:
        return f"list of {_type(inner[0])}"
    if origin is dict:
        section = bool(structs_in(inner[1]))
        return "sections by name" if section else "names and values"
    if hasattr(kind, "__metadata__"):
        return _type(inner[0])
    if inner:
        return " or ".join(_type(it) for it in inner)
    return str(getattr(kind, "__name__", kind))


def structs_in(kind: Any) -> list[type[msgspec.Struct]]:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return [kind]
    return [it for part in get_args(kind) for it in structs_in(part)]


def _default(field: Any) -> str:
    if field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    elif field.default is not msgspec.NODEFAULT:
        value = field.default
    else:
        return "required"
    if isinstance(value, msgspec.Struct):
        return "see below"
    if value is None:
        return ""
    text = msgspec.json.encode(str(value) if isinstance(value, Path) else value).decode()
    return f"`{text}`"


CONTRACT_HEAD: Final = """# The contract

What a plugin may register and what it is given: `almenara.hookspecs`, version {version} of the API.
A plugin is a module whose functions implement the hooks below, marked with `@almenara.hookimpl`. A
hook takes its arguments by name and leaves out those it does not need.

This page is written by `almenara plugins document` from the code.
"""


def contract_reference() -> str:
    """Markdown of every hook and type of `almenara.hookspecs`, and of the sdk."""
    hooks = [it for name, it in vars(hookspecs).items() if name.startswith("almenara_")]
    parts = [CONTRACT_HEAD.format(version=API_VERSION), "## Hooks\n"]
    for hook in hooks:
        parts += _function(hook)
    parts.append("## Types\n")
    for name, kind in vars(hookspecs).items():
        if inspect.isclass(kind) and kind.__module__ == hookspecs.__name__:
            parts += _kind(name, kind)
    parts.append("## `almenara.sdk`\n")
    for name in sdk.__all__:
        thing = getattr(sdk, name)
        parts += _kind(name, thing) if inspect.isclass(thing) else _function(thing)
    return "\n".join(parts).rstrip() + "\n"


def _told(thing: Any) -> str:
    text = inspect.getdoc(thing)
    if not text:
        raise ValueError(f"{thing.__name__} is part of the contract and is not documented")
    return text


def _function(function: Any) -> Iterator[str]:
    signature = re.sub(r"almenara\.\w+\.|collections\.abc\.|typing\.", "", _signature(function))
    start = "async def" if inspect.iscoroutinefunction(function) else "def"
    yield f"### `{function.__name__}`\n"
    yield f"```python\n{start} {function.__name__}{signature}\n```\n"
    yield f"{_told(function)}\n"


def _signature(function: Any) -> str:
    try:
        source = inspect.getsource(function)
    except OSError:
        return str(inspect.signature(function))
    tree = ast.parse(textwrap.dedent(source)).body[0]
    if not isinstance(tree, ast.FunctionDef | ast.AsyncFunctionDef):
        return str(inspect.signature(function))
    returns = f" -> {ast.unparse(tree.returns)}" if tree.returns is not None else ""
    return f"({ast.unparse(tree.args)}){returns}"


def _kind(name: str, kind: type) -> Iterator[str]:
    yield f"### `{name}`\n"
    yield f"{_told(kind)}\n"
    if issubclass(kind, msgspec.Struct):
        yield from _table(kind, "field")
        return
    for method in vars(kind).values():
        if inspect.isfunction(method) and not method.__name__.startswith("_"):
            start = "async def" if inspect.iscoroutinefunction(method) else "def"
            yield f"```python\n{start} {method.__name__}{_signature(method)}\n```\n"
            yield f"{_told(method)}\n"
