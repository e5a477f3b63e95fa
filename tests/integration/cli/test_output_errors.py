"""Commands of which the output cannot be written: on a full disk, and into a closed pipe."""

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from almenara.bus.embedded import EmbeddedBus
from almenara.config import StorageSettings
from almenara.signals import Resource
from support.command_line import run_almenara

CONFIGURATION = """\
storage: {dir: data}
alerting:
  rules:
  - name: crashing
    when: {resource: {kind: pod, status: [CrashLoop*]}}
    annotations: {summary: "{{ name }} crashes"}
"""
COMMANDS = [
    ("--help",),
    ("--version",),
    ("plugins", "--help"),
    ("plugins", "list"),
    ("plugins", "list", "--json"),
    ("plugins", "document"),
    ("plugins", "check", "http"),
    ("config", "document"),
    ("config", "schema"),
    ("config", "check"),
    ("alerts", "rules"),
    ("alerts", "receivers"),
    ("alerts", "receivers", "--json"),
    ("storage", "check"),
    ("doctor",),
    ("demo", "--help"),
]
"""Those that print without a server, each kind of them."""


async def create_database(folder: Path) -> None:
    async with EmbeddedBus(StorageSettings(dir=folder)) as bus:
        await bus.publish([Resource(kind="pod", name="web")], "test")


def run_into(
    folder: Path, arguments: tuple[str, ...], stdout: int
) -> subprocess.CompletedProcess[str]:
    (folder / "almenara.yaml").write_text(CONFIGURATION)
    asyncio.run(create_database(folder / "data"))
    environment = {"ALMENARA_CONFIG": "almenara.yaml"}
    return run_almenara(folder, *arguments, environment=environment, stdout=stdout)


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_command_reports_a_full_disk_in_one_line(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        done = run_into(tmp_path, arguments, full)
    finally:
        os.close(full)
    assert done.stderr.splitlines()[-1:] == [
        "Error: The output cannot be written: No space left on device."
    ]
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert done.returncode == 1


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_command_ends_quietly_where_a_pipe_is_closed(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = run_into(tmp_path, arguments, writer)
    finally:
        os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 1
