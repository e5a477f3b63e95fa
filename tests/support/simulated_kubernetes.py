"""A simulated Kubernetes cluster in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.servers import wait_until


@contextmanager
def simulated_kubernetes(folder: Path, pods: int) -> Iterator[dict[str, str]]:
    """Run a cluster of so many pods; yields the settings of Almenara that watch it."""
    folder.mkdir(parents=True, exist_ok=True)
    kubeconfig = folder / "simulated.kubeconfig"
    command = [sys.executable, "-m", "almenara_demo.kubernetes_cluster", str(pods)]
    process = subprocess.Popen([*command, str(kubeconfig)])
    try:
        wait_until(kubeconfig.exists, "the simulated cluster", 60)
        yield {
            "plugins__kubernetes__clusters": json.dumps(
                [{"kubeconfig": str(kubeconfig), "simulated": True}]
            ),
            "plugins__kubernetes__logs": "true",
            "plugins__kubernetes__yaml": "true",
            "plugins__kubernetes__usage_every": "1",
        }
    finally:
        process.terminate()
        process.wait(10)
