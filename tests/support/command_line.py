"""The `almenara` command as a process of its own."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def run_almenara(
    folder: Path,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
    stdout: int = subprocess.PIPE,
) -> subprocess.CompletedProcess[str]:
    """Run the command in `folder`, with none of Almenara's variables but those passed.

    `prefix` is a command that runs it, such as `setpriv`; `stdout` is where it writes.
    """
    inherited = {name: value for name, value in os.environ.items() if "ALMENARA" not in name}
    return subprocess.run(
        [*prefix, sys.executable, "-m", "almenara", *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        cwd=folder,
        env={**inherited, "COLUMNS": "400", **(environment or {})},
    )


def output_of(process: subprocess.CompletedProcess[str]) -> str:
    """Return what a process printed as one line, without the borders of boxes."""
    return " ".join(((process.stdout or "") + process.stderr).replace("│", " ").split())
