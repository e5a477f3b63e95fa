"""Writes what of the chart follows from elsewhere: its schema, its README and its rules.

The schema is the application's own (`almenara config schema`) under `config`, the types of
types.yaml for the chart's keys, the API types of Kubernetes where a key takes one, and what
values.yaml says of each key. With `--check` it only says what would change, and fails.
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

HERE: Final = Path(__file__).parent
CHART: Final = HERE / "almenara"
KEY: Final = re.compile(r"( *)([\w.-]+):(?: |$)")
KUBERNETES: Final = (
    Path(kubernetes_validate.__file__).parent
    / "kubernetes-json-schema"
    / f"v{kubernetes_validate.latest_version()}-local-strict"
    / "_definitions.json"
)
SET_BY_CHART: Final = {
    ("Settings", "plugins_dir"): "what `plugins.files` and `plugins.existingConfigMap` hold",
    ("StorageSettings", "dir"): "the volume of `persistence`",
}
"""What `config` may not say, and what says it."""

SHOWN: Final = 40
"""Lines of a change that `--check` shows."""

Tree = dict[str, Any]


def comments(text: str) -> dict[str, str]:
    """What the comment above each key of a YAML text says of it, by the key's dotted path.

    Lines of a comment that are set in are examples, and left out.
    """
    found: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    waiting: list[str] = []
    for line in text.splitlines():
        bare = line.strip()
        if bare.startswith("#"):
            waiting.append(bare[1:])
            continue
        key = KEY.match(line)
        if key is not None:
            indent = len(key[1])
            path = [it for it in path if it[0] < indent]
            path.append((indent, key[2]))
            said = [it.strip() for it in waiting if not it.startswith("   ")]
            if said:
                found[".".join(name for _, name in path)] = " ".join(said)
        waiting = []
    return found


def first_sentence(text: str) -> str:
    return re.split(r"(?<=[.!?])\s", " ".join(text.split()), maxsplit=1)[0]


def kubernetes_types(names: set[str]) -> Tree:
    """The definitions of API types and of all that they are made of, briefly described."""
    definitions = json.loads(KUBERNETES.read_text("utf-8"))["$defs"]
    found: Tree = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found[name] = _brief(definitions[name])
        waiting += re.findall(r"#/\$defs/([\w.]+)", json.dumps(found[name]))
    return found


def _brief(node: Any) -> Any:
    if isinstance(node, list):
        return [_brief(it) for it in node]
    if not isinstance(node, dict):
        return node
    found = {name: _brief(it) for name, it in node.items() if name != "format"}
    if isinstance(found.get("description"), str):
        found["description"] = first_sentence(found["description"])
    if "$ref" in found:
        found["$ref"] = "#/$defs/" + found["$ref"].rpartition("/")[2]
    if node.get("oneOf") == [{"type": ["string", "null"]}, {"type": ["number", "null"]}]:
        # A quantity; null would match both and so neither.
        del found["oneOf"]
        found["type"] = ["string", "number", "null"]
    return found


def printed(*command: str) -> Any:
    """The JSON that a command of the application prints."""
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    return json.loads(done.stdout)


def application_types(almenara: str) -> Tree:
    """The application's own schema, as definitions whose names begin with `Application.`."""
    whole = json.dumps(printed(almenara, "config", "schema"))
    definitions = json.loads(whole.replace('"#/$defs/', '"#/$defs/Application.'))["$defs"]
    for (kind, name), instead in SET_BY_CHART.items():
        definitions[kind]["properties"][name] = {
            "description": f"Set by the chart; it is {instead}.",
            "enum": [None, f"nothing: it is {instead}"],
        }
    settings = definitions["Settings"]["properties"]
    del settings["plugins"]["properties"]["disabled"]
    definitions["ServerSettings"]["properties"]["port"]["minimum"] = 1
    for definition in definitions.values():
        for name, told in definition.get("properties", {}).items():
            definition["properties"][name] = told = _without_text(told)
            reference = told.get("$ref", "").rpartition(".")[2]
            if reference in definitions and "description" not in told:
                told["description"] = definitions[reference].get("description", reference)
    for name, told in settings["plugins"]["properties"].items():
        told.setdefault("description", f"Settings of the plugin {name}.")
    return {f"Application.{name}": it for name, it in definitions.items()}


def _without_text(told: Tree) -> Tree:
    """A setting; where it is a secret, the text itself is no choice, as a ConfigMap holds it."""
    for choices in ("oneOf", "anyOf"):
        for choice in told.get(choices, ()):
            if choices == "oneOf" and "env" in choice.get("properties", {}):
                return {
                    "description": told.get("description", "A secret."),
                    "type": "object",
                    "properties": {
                        "env": {"type": "string", "description": "Variable of the environment."},
                        "file": {"type": "string", "description": "File, as of `secrets`."},
                    },
                    "minProperties": 1,
                    "maxProperties": 1,
                    "additionalProperties": False,
                }
        if choices in told:
            told[choices] = [_without_text(it) for it in told[choices]]
    return told


def schema(almenara: str) -> str:
    """The text of values.schema.json. Raises `ValueError` where the sources do not agree."""
    types = yaml.safe_load((HERE / "types.yaml").read_text("utf-8"))
    text = (CHART / "values.yaml").read_text("utf-8")
    values, said = yaml.safe_load(text), comments(text)
    own, rules = types.pop("$defs"), types.pop("rules")
    taken: set[str] = set()
    unused = set(types)

    def resolved(node: Any) -> Any:
        if isinstance(node, list):
            return [resolved(it) for it in node]
        if not isinstance(node, dict):
            return node
        if "kubernetes" in node:
            taken.add(node["kubernetes"])
            rest = {name: it for name, it in node.items() if name != "kubernetes"}
            return {**rest, "$ref": f"#/$defs/{node['kubernetes']}"}
        return {name: resolved(it) for name, it in node.items()}

    def described(path: str, value: Any) -> Tree:
        if path and path not in said:
            raise ValueError(f"values.yaml says nothing of {path}")
        about = {"description": said[path]} if path else {}
        if path == "config":
            return {**about, "$ref": "#/$defs/Application.Settings"}
        if path in types:
            unused.discard(path)
            return {**about, **resolved(types[path])}
        if not isinstance(value, dict) or not value:
            raise ValueError(f"types.yaml says nothing of {path}")
        return {
            **about,
            "type": "object",
            "properties": {
                name: described(f"{path}.{name}".lstrip("."), it) for name, it in value.items()
            },
            "additionalProperties": False,
        }

    whole = described("", values)
    # What helm itself passes to charts.
    whole["properties"]["global"] = {"type": "object", "description": "Values of a parent chart."}
    if unused:
        raise ValueError(f"types.yaml speaks of {sorted(unused)}, which values.yaml does not have")
    return (
        json.dumps(
            {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "title": "Values of the chart almenara",
                **whole,
                "allOf": resolved(rules),
                "$defs": {
                    **own,
                    **application_types(almenara),
                    **dict(sorted(kubernetes_types(taken).items())),
                },
            },
            indent=1,
            ensure_ascii=False,
        )
        + "\n"
    )


def generated(almenara: str) -> str:
    """The text of templates/_generated.tpl: what templates must know of the application."""
    settings = application_types(almenara)["Application.Settings"]
    return GENERATED.format(
        known=json.dumps(sorted(settings["properties"]["plugins"]["properties"])),
        kubernetes=json.dumps(printed(str(Path(almenara).parent / "python"), "-c", RULES)),
    )


RULES: Final = """
import json
from almenara_kubernetes.rbac import LOGS, NAMESPACES, rule, rule_to_read, tree
from almenara_kubernetes.watched import MEASURED, READABLE, WATCHED
from almenara_ray import almenara_requirements
from almenara_ray.settings import KubeRaySettings, RaySettings

def kinds(table, rule=rule):
    return [
        {"kind": it.kind.removeprefix("kubernetes."), "namespaced": it.namespaced,
         "rule": tree(rule(it))}
        for it in table
    ]

kuberay = almenara_requirements(RaySettings(kuberay=[KubeRaySettings()]))
print(json.dumps({"watched": kinds(WATCHED), "measured": kinds(MEASURED),
                  "readable": kinds(READABLE.values(), rule_to_read), "logs": tree(LOGS),
                  "namespaces": tree(NAMESPACES), "kuberay": [tree(it) for it in kuberay]}))
"""
"""What is run in the application's environment: the rules behind `almenara kubernetes rbac`."""
GENERATED: Final = """\
{{{{- /* Written by `make chart`. The plugins that come with Almenara. */ -}}}}
{{{{- define "almenara.known" -}}}}
{known}
{{{{- end }}}}

{{{{- /* What plugins read of Kubernetes, and the rules for it. */ -}}}}
{{{{- define "almenara.kubernetes" -}}}}
{kubernetes}
{{{{- end }}}}
"""


def rows(values: Tree, said: dict[str, str], types: Tree, above: str = "") -> Iterator[str]:
    """The table of the README: a row for each key that can be set by itself."""
    for name, value in values.items():
        path = f"{above}.{name}".lstrip(".")
        if path == "config" or path in types or not isinstance(value, dict) or not value:
            default = json.dumps(value) if path not in LONG else "see `values.yaml`"
            shown = default if path in LONG else f"`{default}`"
            yield f"| `{path}` | {shown} | {said[path].replace('|', '&#124;')} |"
        else:
            yield f"| **`{path}`** | | {said[path].replace('|', '&#124;')} |"
            yield from rows(value, said, types, path)


LONG: Final = {"config", "resources", "podSecurityContext", "securityContext"}


def readme() -> str:
    """The text of README.md."""
    text = (CHART / "values.yaml").read_text("utf-8")
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    types = yaml.safe_load((HERE / "types.yaml").read_text("utf-8"))
    table = "\n".join(rows(yaml.safe_load(text), comments(text), types))
    return (
        (HERE / "README.md.in")
        .read_text("utf-8")
        .replace("{version}", chart["version"])
        .replace("{appVersion}", chart["appVersion"])
        .replace("{kubeVersion}", chart["kubeVersion"].removesuffix("-0"))
        .replace("{values}", table)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--almenara", default="almenara", help="The command of the application.")
    parser.add_argument("--check", action="store_true", help="Change nothing; fail where it would.")
    given = parser.parse_args()
    written: dict[Path, Callable[[], str]] = {
        CHART / "values.schema.json": lambda: schema(given.almenara),
        CHART / "templates" / "_generated.tpl": lambda: generated(given.almenara),
        CHART / "README.md": readme,
    }
    stale = False
    for path, write in written.items():
        text = write()
        before = path.read_text("utf-8") if path.exists() else ""
        if text == before:
            continue
        if given.check:
            stale = True
            name = str(path.relative_to(HERE.parent))
            change = difflib.unified_diff(before.splitlines(True), text.splitlines(True), name)
            sys.stderr.writelines(list(change)[:SHOWN])
            sys.stderr.write(f"{name} is not what it follows from; run make chart\n")
        else:
            path.write_text(text, "utf-8")
    raise SystemExit(stale)


if __name__ == "__main__":
    main()
