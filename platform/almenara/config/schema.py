"""The configuration as one JSON Schema, for editors and for checks before a roll-out."""

import re
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import msgspec

from almenara.config import Secret, Settings
from almenara.config.reference import attribute_docs, structs_in
from almenara.plugins import PluginRegistry

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
REFERENCE: Final = "#/$defs/{name}"
WRITTEN: Final[dict[Any, dict[str, Any]]] = {
    Path: {"type": "string", "format": "path"},
    Secret: {
        "description": "A secret: from the environment, from a file, or as it is.",
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
                    ("env", "Variable of the environment that holds it."),
                    ("file", "File that holds it."),
                )
            ),
        ],
    },
}


def configuration_schema(plugins: PluginRegistry) -> dict[str, Any]:
    """The JSON Schema of the whole configuration, the settings of every plugin included."""
    of_plugins = {name: kind for name in plugins.modules if (kind := plugins.settings_type(name))}
    kinds: list[type[msgspec.Struct]] = [Settings, *of_plugins.values()]
    references, definitions = msgspec.json.schema_components(
        kinds, schema_hook=_written, ref_template=REFERENCE
    )
    named = dict(zip(kinds, references, strict=True))
    _describe(kinds, definitions)
    whole = definitions[_name(named[Settings])]
    whole["properties"]["plugins"] = {
        "description": "Settings of each plugin, by its name.",
        "type": "object",
        "properties": {
            "disabled": {
                "description": "Plugins to leave out.",
                "type": "array",
                "items": {"type": "string"},
            },
            **{
                info.name: named[of_plugins[info.name]]
                if info.name in of_plugins
                else {"type": ["object", "null"]}
                for info in plugins.described()
            },
        },
        "additionalProperties": False,
    }
    return {
        "$schema": DIALECT,
        "title": "Configuration of Almenara",
        **named[Settings],
        "$defs": definitions,
    }


def _name(reference: dict[str, Any]) -> str:
    return str(reference["$ref"]).rpartition("/")[2]


def _written(kind: type) -> dict[str, Any]:
    try:
        # Each place has its own, as what is said of a setting is added to it.
        return deepcopy(WRITTEN[kind])
    except KeyError:
        raise NotImplementedError(f"no JSON Schema is known for {kind}") from None


def _describe(kinds: list[type[msgspec.Struct]], definitions: dict[str, Any]) -> None:
    """Add what is said of each field to its property."""
    found: set[type[msgspec.Struct]] = set()
    waiting = list(kinds)
    while waiting:
        kind = waiting.pop()
        if kind in found:
            continue
        found.add(kind)
        waiting += [it for field in msgspec.structs.fields(kind) for it in structs_in(field.type)]
        told = attribute_docs(kind)
        names = {field.name: field.encode_name for field in msgspec.structs.fields(kind)}
        qualified = re.sub(r"[^\w.-]", "_", f"{kind.__module__}.{kind.__qualname__}")
        definition = definitions.get(kind.__name__) or definitions.get(qualified) or {}
        for name, text in told.items():
            described = definition.get("properties", {}).get(names.get(name, ""))
            if described is not None:
                described["description"] = " ".join(text.split())
