"""Helm, the program, in a namespace of the API server."""

import json
import subprocess
from pathlib import Path
from typing import Any

import yaml

from support.api_server import ApiServer
from support.chart.engine import Tree


class HelmError(Exception):
    """Helm refused or failed; the text is what it says."""


class Helm:
    """What helm does with releases of a namespace; each raises `HelmError` where it fails."""

    def __init__(self, program: Path, server: ApiServer, namespace: str) -> None:
        self.command = [
            str(program), "--kubeconfig", str(server.admin_kubeconfig), "--namespace", namespace,
        ]  # fmt: skip

    def _run(self, *arguments: str | Path, values: Tree | None = None) -> str:
        given = ["--values", "-"] if values is not None else []
        done = subprocess.run(
            [*self.command, *map(str, arguments), *given], input=yaml.safe_dump(values or {}),
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        if done.returncode:
            raise HelmError(done.stderr)
        return done.stdout

    def install(self, chart: Path, name: str, values: Tree) -> list[Tree]:
        """The objects of the new release, without those of hooks."""
        return self._objects("install", name, chart, values=values)

    def upgrade(self, chart: Path, name: str, values: Tree, *options: str) -> list[Tree]:
        """The objects of the release from now on, without those of hooks."""
        return self._objects("upgrade", name, chart, *options, values=values)

    def _objects(self, *arguments: str | Path, values: Tree) -> list[Tree]:
        release = json.loads(self._run(*arguments, "--output", "json", values=values))
        return [each for each in yaml.safe_load_all(release["manifest"]) if each]

    def rollback(self, name: str, revision: int) -> None:
        self._run("rollback", name, str(revision))

    def history(self, name: str) -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = json.loads(self._run("history", name, "--output", "json"))
        return result

    def test(self, name: str) -> str:
        return self._run("test", name, "--timeout", "60s")

    def uninstall(self, name: str) -> None:
        self._run("uninstall", name)

    def template(self, chart: Path, name: str, values: Tree) -> str:
        return self._run("template", name, chart, values=values)
