"""The configuration as one JSON Schema, for editors and for checks before a roll-out."""

import re
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import msgspec

from almenara.config.model import Settings, nested_structs
from almenara.config.reference import field_docs
from almenara.config.secrets import Secret

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
REFERENCE: Final = "#/$defs/{name}"
CUSTOM_TYPES: Final[dict[Any, dict[str, Any]]] = {
    Path: {"type": "string", "format": "path"},
    Secret: {
        "description": "A secret: from an environment variable, from a file, or the value itself.",
        "oneOf": [
            {"type": "string"},
            *(
                {
                    "type": "object",
                    "properties": {place: {"type": "string", "description": text}},
                    "required": [place],
                    "additionalProperties": False,
                }
                for place, text in (
                    ("env", "Environment variable with the value."),
                    ("file", "File with the value."),
                )
            ),
        ],
    },
}
"""Schemas of the types that msgspec does not know."""


def build_schema(plugins: Mapping[str, type[msgspec.Struct] | None]) -> dict[str, Any]:
    """Return the JSON Schema of the whole configuration.

    `plugins` is the settings struct of each plugin by its name, None for one without settings.
    """
    plugin_structs = {name: struct for name, struct in plugins.items() if struct is not None}
    structs: list[type[msgspec.Struct]] = [Settings, *plugin_structs.values()]
    references, definitions = msgspec.json.schema_components(
        structs, schema_hook=_schema_of_custom_type, ref_template=REFERENCE
    )
    reference_of = dict(zip(structs, references, strict=True))
    _add_descriptions(structs, definitions)
    root = definitions[_definition_name(reference_of[Settings])]
    root["properties"]["plugins"] = {
        "description": "Settings of each plugin, by its name.",
        "type": "object",
        "properties": {
            "disabled": {
                "description": "Plugins that are not loaded.",
                "type": "array",
                "items": {"type": "string"},
            },
            **{
                name: {"type": ["object", "null"]} if struct is None else reference_of[struct]
                for name, struct in plugins.items()
            },
        },
        "additionalProperties": False,
    }
    return {
        "$schema": DIALECT,
        "title": "Configuration of Almenara",
        **reference_of[Settings],
        "$defs": definitions,
    }


def _definition_name(reference: dict[str, Any]) -> str:
    return str(reference["$ref"]).rpartition("/")[2]


def _schema_of_custom_type(kind: type) -> dict[str, Any]:
    try:
        # A copy for each field, because descriptions are added to it.
        return deepcopy(CUSTOM_TYPES[kind])
    except KeyError:
        raise NotImplementedError(f"no JSON Schema is known for {kind}") from None


def _add_descriptions(structs: list[type[msgspec.Struct]], definitions: dict[str, Any]) -> None:
    """Add the docstring of each field to its property, in nested structs as well."""
    done: set[type[msgspec.Struct]] = set()
    pending = list(structs)
    while pending:
        struct = pending.pop()
        if struct in done:
            continue
        done.add(struct)
        fields = msgspec.structs.fields(struct)
        pending += [nested for field in fields for nested in nested_structs(field.type)]
        encoded_names = {field.name: field.encode_name for field in fields}
        # msgspec qualifies the name of a definition where two structs have the same name.
        qualified = re.sub(r"[^\w.-]", "_", f"{struct.__module__}.{struct.__qualname__}")
        definition = definitions.get(struct.__name__) or definitions.get(qualified) or {}
        for name, text in field_docs(struct).items():
            schema = definition.get("properties", {}).get(encoded_names.get(name, ""))
            if schema is not None:
                schema["description"] = " ".join(text.split())
