"""Every setting that is a secret, and every one that is a URL, of the core and of all plugins."""

import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec

from almenara.config import Secret, Settings

Tree = dict[str, Any]
Step = str | int
URL_NAMES = {"url", "urls", "issuer", "server", "servers", "dashboard"}
EXAMPLES: Mapping[str, Any] = {
    "url": "http://127.0.0.1:9/", "issuer": "https://127.0.0.1:9", "name": "a", "client_id": "a",
    "kind": "A", "version": "v1", "plural": "things", "group": "example.org", "title": "A",
}  # fmt: skip


class Place(msgspec.Struct, frozen=True):
    """A setting: the steps to it, and the struct that it is a field of."""

    steps: tuple[Step, ...]
    struct: type[msgspec.Struct]

    @property
    def path(self) -> str:
        """The path as messages have it."""
        return ".".join(str(step) for step in self.steps).replace(".0", "[0]")

    def tree(self, value: Any, **siblings: Any) -> Tree:
        """Return a configuration with `value` at this place, valid in everything else.

        `siblings` are set beside the field.
        """
        root: Tree = {}
        _fill(root, Settings, self.steps, value, siblings)
        return root


def secret_places(plugins: Mapping[str, type[msgspec.Struct] | None]) -> list[Place]:
    """Return all settings of type secret."""
    return [place for place, kind, _ in _walk(plugins) if _is_secret(kind)]


def url_places(plugins: Mapping[str, type[msgspec.Struct] | None]) -> list[Place]:
    """Return all settings that are a URL, or the first of a list of URLs."""
    return [
        Place((*place.steps, 0), place.struct) if get_origin(kind) is list else place
        for place, kind, name in _walk(plugins)
        if name in URL_NAMES and (str in get_args(kind) or kind is str)
    ]


STRUCTS: dict[str, type[msgspec.Struct]] = {}
"""The settings structs of plugins, for `Place.tree`."""


def _walk(
    plugins: Mapping[str, type[msgspec.Struct] | None],
) -> Iterator[tuple[Place, Any, str]]:
    STRUCTS.update({name: struct for name, struct in plugins.items() if struct is not None})
    yield from _walk_struct((), Settings)
    for name, struct in STRUCTS.items():
        yield from _walk_struct(("plugins", name), struct)


def _walk_struct(
    steps: tuple[Step, ...],
    struct: type[msgspec.Struct],
    outer: frozenset[type[msgspec.Struct]] = frozenset(),
) -> Iterator[tuple[Place, Any, str]]:
    """Yield the fields of a struct. One that is inside itself, as a route, is not entered again."""
    outer |= {struct}
    for field in msgspec.structs.fields(struct):
        here = (*steps, field.encode_name)
        yield Place(here, struct), field.type, field.encode_name
        for inner, more in _containers(field.type):
            if _is_secret(inner) and more:
                yield Place((*here, *more), struct), inner, field.encode_name
            elif (
                isinstance(inner, type) and issubclass(inner, msgspec.Struct) and inner not in outer
            ):
                yield from _walk_struct((*here, *more), inner, outer)


def _containers(kind: Any, steps: tuple[Step, ...] = ()) -> Iterator[tuple[Any, tuple[Step, ...]]]:
    """Yield the types in a type, with the steps to an entry: `0` of lists, `a` of mappings."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is list:
        yield from _containers(arguments[0], (*steps, 0))
    elif origin is dict:
        yield from _containers(arguments[1], (*steps, "a"))
    elif origin is not Literal and arguments:
        for part in arguments:
            yield from _containers(part, steps)
    else:
        yield kind, steps


def _is_secret(kind: Any) -> bool:
    return kind is Secret or (get_origin(kind) not in (list, dict) and Secret in get_args(kind))


def _fill(
    tree: Tree, struct: type[msgspec.Struct], steps: tuple[Step, ...], value: Any, siblings: Tree
) -> None:
    name = str(steps[0])
    if struct is Settings and name == "plugins":
        plugin = tree.setdefault("plugins", {}).setdefault(steps[1], {})
        _fill(plugin, STRUCTS[str(steps[1])], steps[2:], value, siblings)
        return
    tree |= _required(struct)
    field = next(each for each in msgspec.structs.fields(struct) if each.encode_name == name)
    parent: Any = tree
    key: Step = name
    rest = steps[1:]
    while rest and not isinstance(rest[0], str):
        parent[key] = [None]
        parent, key, rest = parent[key], rest[0], rest[1:]
    inner = [
        part
        for part, _ in _containers(field.type)
        if isinstance(part, type) and issubclass(part, msgspec.Struct)
    ]
    if get_origin(field.type) is dict and rest and inner:
        # A mapping of structs by names of the user's choice.
        parent[key] = {}
        parent, key, rest = parent[key], rest[0], rest[1:]
    if rest and inner:
        parent[key] = {}
        _fill(parent[key], inner[0], rest, value, siblings)
        return
    if rest:
        parent[key] = {}
        parent, key = parent[key], rest[0]
    parent[key] = value
    tree |= siblings


def _required(struct: type[msgspec.Struct]) -> Tree:
    return {
        field.encode_name: (
            _example(field.type)
            if get_origin(field.type) is Literal
            else EXAMPLES.get(field.encode_name, _example(field.type))
        )
        for field in msgspec.structs.fields(struct)
        if field.default is msgspec.NODEFAULT and field.default_factory is msgspec.NODEFAULT
    }


def _example(kind: Any) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return arguments[0]
    if origin in (list, typing.get_origin(list[str])):
        return []
    if kind is Path:
        return "/no/such/file"
    if kind in (int, float):
        return 1
    return "a"
