"""Structs that plugin authors write by hand, with errors that name the object and the field."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, get_args, get_origin

import msgspec

from almenara.config.suggestions import suggest

LABELS: Final = ("name", "title", "panel", "stream", "kind")
"""Fields whose value identifies an object in an error, in order of preference."""


class NamedStructMeta(msgspec.StructMeta):
    """Makes the errors of a constructor name the struct and the object that was being made.

    msgspec reports `Unexpected keyword argument 'titel'`, which does not say where. With this
    metaclass the text is `TablePanel 'jobs' has no field 'titel'; did you mean title?`.
    """

    def __call__(cls, *args: Any, **fields: Any) -> Any:  # noqa: N805
        known = cls.__struct_fields__
        unknown = next((field for field in fields if field not in known), None)
        if unknown is not None:
            hint = suggest(unknown, known)
            raise TypeError(f"{_describe(cls, fields)} has no field {unknown!r}; {hint}")
        try:
            return super().__call__(*args, **fields)
        except TypeError as error:
            raise TypeError(f"{_describe(cls, fields)}: {error}") from None


def _describe(cls: type, fields: Mapping[str, Any]) -> str:
    label = next((fields[field] for field in LABELS if field in fields), None)
    return cls.__name__ if label is None else f"{cls.__name__} {label!r}"


def find_type_error(struct: msgspec.Struct, path: str = "") -> str:
    """Return the first field whose value does not fit its type, with the reason; empty if none.

    msgspec checks types only when it decodes. Structs within fields, also in sequences and
    mappings, are checked as well: `columns[0].format: 'byte' is not valid; did you mean bytes?`.
    """
    for field in msgspec.structs.fields(type(struct)):
        value = getattr(struct, field.name)
        place = f"{path}{field.name}"
        try:
            msgspec.convert(value, field.type)
        except msgspec.ValidationError as error:
            return f"{place}: {_explain(value, field.type, error)}"
        for inner_place, inner in _structs_in(value, place):
            if text := find_type_error(inner, f"{inner_place}."):
                return text
    return ""


def _explain(value: Any, kind: Any, error: msgspec.ValidationError) -> str:
    if get_origin(kind) is Literal:
        return f"{value!r} is not valid; {suggest(str(value), map(str, get_args(kind)))}"
    if isinstance(value, msgspec.Struct):
        expected = [each.__name__ for each in (*get_args(kind), kind) if isinstance(each, type)]
        return f"it takes {' or '.join(expected)}, not {type(value).__name__}"
    return str(error)


def _structs_in(value: Any, place: str) -> Iterator[tuple[str, msgspec.Struct]]:
    if isinstance(value, msgspec.Struct):
        yield place, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _structs_in(item, f"{place}[{key!r}]")
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for index, item in enumerate(value):
            yield from _structs_in(item, f"{place}[{index}]")
