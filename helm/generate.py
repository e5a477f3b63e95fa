"""Generates the parts of the chart that follow from the code: its schema, README and rules.

values.schema.json combines the application's JSON Schema (`almenara config schema`) under `config`,
the types of types.yaml for the keys of the chart, the API types of Kubernetes for the keys that
take one, and the comments of values.yaml as descriptions. With `--check` nothing is written, and
the exit status is 1 if a file would change.
"""

import argparse
import difflib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import yaml

HELM: Final = Path(__file__).parent
CHART: Final = HELM / "almenara"
VALUES: Final = CHART / "values.yaml"
YAML_KEY: Final = re.compile(r"( *)([\w.-]+):(?: |$)")
KUBERNETES_SCHEMA: Final = (
    Path(kubernetes_validate.__file__).parent
    / "kubernetes-json-schema"
    / f"v{kubernetes_validate.latest_version()}-local-strict"
    / "_definitions.json"
)
SET_BY_CHART: Final = {
    ("Settings", "plugins_dir"): "`plugins.files` and `plugins.existingConfigMap`",
    ("StorageSettings", "dir"): "the volume of `persistence`",
}
"""Settings that `config` must not contain, and what sets them."""
NOT_EXPANDED: Final = {"config", "resources", "podSecurityContext", "securityContext"}
"""Keys that the table of the README does not expand."""
MAX_DIFF_LINES: Final = 40

Tree = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--almenara", default="almenara", help="Path of the `almenara` command.")
    parser.add_argument("--check", action="store_true", help="Write nothing; fail on a difference.")
    arguments = parser.parse_args()
    outputs: dict[Path, Callable[[], str]] = {
        CHART / "values.schema.json": lambda: generate_schema(arguments.almenara),
        CHART / "templates" / "_generated.tpl": lambda: generate_template(arguments.almenara),
        CHART / "README.md": generate_readme,
    }
    is_stale = False
    for path, generate in outputs.items():
        new = generate()
        old = path.read_text("utf-8") if path.exists() else ""
        if new == old:
            continue
        if arguments.check:
            is_stale = True
            name = str(path.relative_to(HELM.parent))
            diff = difflib.unified_diff(old.splitlines(True), new.splitlines(True), name)
            sys.stderr.writelines(list(diff)[:MAX_DIFF_LINES])
            sys.stderr.write(f"{name} is out of date; run `make chart`\n")
        else:
            path.write_text(new, "utf-8")
    raise SystemExit(is_stale)


# values.schema.json


def generate_schema(almenara: str) -> str:
    """Return the text of values.schema.json. Raises `ValueError` if its inputs disagree."""
    types = yaml.safe_load((HELM / "types.yaml").read_text("utf-8"))
    text = VALUES.read_text("utf-8")
    definitions, rules = types.pop("$defs"), types.pop("rules")
    builder = SchemaBuilder(types, read_comments(text))
    root = builder.describe("", yaml.safe_load(text))
    # Helm passes these to every chart, and a parent chart may set them.
    root["properties"] |= builder.resolve(types["$subchart"])
    if unknown := set(types) - builder.used - {"$subchart"}:
        raise ValueError(f"types.yaml has {sorted(unknown)}, which values.yaml does not have")
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Values of the chart almenara",
        **root,
        "allOf": builder.resolve(rules),
        "$defs": {
            **definitions,
            **application_definitions(almenara),
            **dict(sorted(kubernetes_definitions(builder.kubernetes_types).items())),
        },
    }
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


class SchemaBuilder:
    """Builds the schema of values.yaml from its comments and the types of types.yaml."""

    def __init__(self, types: Tree, comments: dict[str, str]) -> None:
        self.types, self.comments = types, comments
        self.used: set[str] = set()
        """The keys of types.yaml that were used."""
        self.kubernetes_types: set[str] = set()
        """The API types that were referred to."""

    def describe(self, path: str, value: Any) -> Tree:
        """Return the schema of the key at `path` with the default `value`."""
        if path and path not in self.comments:
            raise ValueError(f"values.yaml has no comment for {path}")
        description = {"description": self.comments[path]} if path else {}
        if path == "config":
            return {**description, "$ref": "#/$defs/Application.Settings"}
        if path in self.types:
            self.used.add(path)
            return {**description, **self.resolve(self.types[path])}
        if not isinstance(value, dict) or not value:
            raise ValueError(f"types.yaml has no type for {path}")
        return {
            **description,
            "type": "object",
            "properties": {
                name: self.describe(f"{path}.{name}".lstrip("."), child)
                for name, child in value.items()
            },
            "additionalProperties": False,
        }

    def resolve(self, node: Any) -> Any:
        """Return a schema of types.yaml in which `kubernetes: TYPE` is a reference."""
        if isinstance(node, list):
            return [self.resolve(child) for child in node]
        if not isinstance(node, dict):
            return node
        if "kubernetes" in node:
            self.kubernetes_types.add(node["kubernetes"])
            others = {name: child for name, child in node.items() if name != "kubernetes"}
            return {**others, "$ref": f"#/$defs/{node['kubernetes']}"}
        return {name: self.resolve(child) for name, child in node.items()}


def read_comments(text: str) -> dict[str, str]:
    """Return the comment above each key of a YAML text, by the dotted path of the key.

    Indented lines of a comment are examples and left out.
    """
    comments: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    pending: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            pending.append(stripped[1:])
            continue
        key = YAML_KEY.match(line)
        if key is not None:
            indent = len(key[1])
            path = [part for part in path if part[0] < indent]
            path.append((indent, key[2]))
            sentences = [part.strip() for part in pending if not part.startswith("   ")]
            if sentences:
                comments[".".join(name for _, name in path)] = " ".join(sentences)
        pending = []
    return comments


def kubernetes_definitions(names: set[str]) -> Tree:
    """Return the definitions of API types and of all types they refer to, with short texts."""
    known = json.loads(KUBERNETES_SCHEMA.read_text("utf-8"))["$defs"]
    definitions: Tree = {}
    pending = list(names)
    while pending:
        name = pending.pop()
        if name not in definitions:
            definitions[name] = _shorten(known[name])
            pending += re.findall(r"#/\$defs/([\w.]+)", json.dumps(definitions[name]))
    return definitions


def _shorten(node: Any) -> Any:
    """Return a schema with the first sentence of each description and without formats."""
    if isinstance(node, list):
        return [_shorten(child) for child in node]
    if not isinstance(node, dict):
        return node
    result = {name: _shorten(child) for name, child in node.items() if name != "format"}
    if isinstance(result.get("description"), str):
        text = " ".join(result["description"].split())
        result["description"] = re.split(r"(?<=[.!?])\s", text, maxsplit=1)[0]
    if "$ref" in result:
        result["$ref"] = "#/$defs/" + result["$ref"].rpartition("/")[2]
    if node.get("oneOf") == [{"type": ["string", "null"]}, {"type": ["number", "null"]}]:
        # A quantity. `null` matches both alternatives, so `oneOf` would refuse it.
        del result["oneOf"]
        result["type"] = ["string", "number", "null"]
    return result


def application_definitions(almenara: str) -> Tree:
    """Return the definitions of the application's schema, with names `Application.<name>`."""
    text = json.dumps(run_json(almenara, "config", "schema"))
    definitions = json.loads(text.replace('"#/$defs/', '"#/$defs/Application.'))["$defs"]
    for (struct, name), origin in SET_BY_CHART.items():
        definitions[struct]["properties"][name] = {
            "description": f"Set by the chart from {origin}.",
            "enum": [None, f"not set here: it is set by {origin}"],
        }
    settings = definitions["Settings"]["properties"]
    del settings["plugins"]["properties"]["disabled"]
    definitions["ServerSettings"]["properties"]["port"]["minimum"] = 1
    for definition in definitions.values():
        for name, property_ in definition.get("properties", {}).items():
            definition["properties"][name] = property_ = _without_plain_secret(property_)
            reference = property_.get("$ref", "").rpartition(".")[2]
            if reference in definitions and "description" not in property_:
                property_["description"] = definitions[reference].get("description", reference)
    for name, plugin in settings["plugins"]["properties"].items():
        plugin.setdefault("description", f"Settings of the plugin {name}.")
    return {f"Application.{name}": definition for name, definition in definitions.items()}


def _without_plain_secret(schema: Tree) -> Tree:
    """Return a setting's schema in which a secret is not a plain text, since a ConfigMap has it."""
    for keyword in ("oneOf", "anyOf"):
        for choice in schema.get(keyword, ()):
            if keyword == "oneOf" and "env" in choice.get("properties", {}):
                return {
                    "description": schema.get("description", "A secret."),
                    "type": "object",
                    "properties": {
                        "env": {"type": "string", "description": "Environment variable."},
                        "file": {"type": "string", "description": "File, such as of `secrets`."},
                    },
                    "minProperties": 1,
                    "maxProperties": 1,
                    "additionalProperties": False,
                }
        if keyword in schema:
            schema[keyword] = [_without_plain_secret(choice) for choice in schema[keyword]]
    return schema


def run_json(*command: str) -> Any:
    """Return the JSON that a command of the application prints."""
    process = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    return json.loads(process.stdout)


# templates/_generated.tpl

PERMISSIONS: Final = """
import json
from almenara_kubernetes.kinds import KINDS, METRICS, READABLE
from almenara_kubernetes.rbac import (
    READ_LOGS, WATCH_NAMESPACES, read_rule, role_rule, watch_rule,
)
from almenara_ray import almenara_requirements
from almenara_ray.settings import KubeRaySettings, RaySettings
from almenara_vllm.permissions import list_rules
from almenara_vllm.settings import KubernetesSettings, VllmSettings

def kinds(table, rule=watch_rule):
    return [
        {"kind": kind.kind.removeprefix("kubernetes."), "namespaced": kind.namespaced,
         "rule": role_rule(rule(kind))}
        for kind in table
    ]

kuberay = almenara_requirements(RaySettings(kuberay=[KubeRaySettings()]))
with_tokens = almenara_requirements(RaySettings(kuberay=[KubeRaySettings(cluster_tokens=True)]))
tokens = [rule for rule in with_tokens if rule not in kuberay]

def vllm(**selector):
    found = KubernetesSettings(name="vllm", **selector)
    return [role_rule(rule) for rule in list_rules(VllmSettings(kubernetes=[found]))]

print(json.dumps({"watched": kinds(KINDS), "measured": kinds(METRICS),
                  "readable": kinds(READABLE.values(), read_rule), "logs": role_rule(READ_LOGS),
                  "namespaces": role_rule(WATCH_NAMESPACES),
                  "kuberay": [role_rule(rule) for rule in kuberay],
                  "kuberayTokens": [role_rule(rule) for rule in tokens],
                  "vllmPods": vllm(), "vllmServices": vllm(services="a")}))
"""
"""Runs in the application's environment: the rules behind `almenara kubernetes rbac`."""
TEMPLATE: Final = """\
{{{{- /* Generated by `make chart`. The bundled plugins, as JSON. */ -}}}}
{{{{- define "almenara.bundledPlugins" -}}}}
{plugins}
{{{{- end }}}}

{{{{- /* What plugins read of Kubernetes, and the rules for it, as JSON. */ -}}}}
{{{{- define "almenara.kubernetesRules" -}}}}
{rules}
{{{{- end }}}}
"""


def generate_template(almenara: str) -> str:
    """Return the text of templates/_generated.tpl: what templates need to know of the code."""
    settings = application_definitions(almenara)["Application.Settings"]
    python = str(Path(almenara).parent / "python")
    return TEMPLATE.format(
        plugins=json.dumps(sorted(settings["properties"]["plugins"]["properties"])),
        rules=json.dumps(run_json(python, "-c", PERMISSIONS)),
    )


# README.md


def generate_readme() -> str:
    """Return the text of README.md."""
    text = VALUES.read_text("utf-8")
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    types = yaml.safe_load((HELM / "types.yaml").read_text("utf-8"))
    table = "\n".join(_value_rows(yaml.safe_load(text), read_comments(text), types))
    return (
        (HELM / "README.md.in")
        .read_text("utf-8")
        .replace("{version}", chart["version"])
        .replace("{appVersion}", chart["appVersion"])
        .replace("{kubeVersion}", chart["kubeVersion"].removesuffix("-0"))
        .replace("{values}", table)
    )


def _value_rows(
    values: Tree, comments: dict[str, str], types: Tree, parent: str = ""
) -> Iterator[str]:
    """Yield a row of the table for each key; keys with sub-keys are headings."""
    for name, value in values.items():
        path = f"{parent}.{name}".lstrip(".")
        description = comments[path].replace("|", "&#124;")
        if path == "config" or path in types or not isinstance(value, dict) or not value:
            default = "see `values.yaml`" if path in NOT_EXPANDED else f"`{json.dumps(value)}`"
            yield f"| `{path}` | {default} | {description} |"
        else:
            yield f"| **`{path}`** | | {description} |"
            yield from _value_rows(value, comments, types, path)


if __name__ == "__main__":
    main()
