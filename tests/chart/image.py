"""The image of the Dockerfile, built without a daemon and mounted as a folder."""

import json
import os
import shutil
import subprocess
from pathlib import Path

BUILD = Path(__file__).parent / "build-image"
POSSIBLE = os.geteuid() == 0 and all(map(shutil.which, ("buildah", "debootstrap")))
WHY_NOT = "building the image needs root, buildah and debootstrap"
ENVIRONMENT = {
    "PATH": "/opt/almenara/bin:/usr/local/bin:/usr/bin:/bin",
    "HOME": "/tmp",
    "ALMENARA_CONFIG": "/etc/almenara/almenara.yaml",
}
"""What its processes are given, as the chart has it."""


class Image:
    def __init__(self, work: Path, name: str, *options: str) -> None:
        done = subprocess.run(
            [BUILD, work, name, *options], capture_output=True, text=True, check=False, timeout=900
        )
        assert done.returncode == 0, done.stderr[-4000:]
        self.root = Path(done.stdout.strip())
        self.inspected = json.loads(
            subprocess.run(
                ["buildah", "--root", work / "store", "--runroot", work / "run", "--storage-driver",
                 "vfs", "inspect", "--type", "image", f"localhost/{name}:latest"],
                capture_output=True, text=True, check=True,
            ).stdout
        )  # fmt: skip

    @property
    def config(self) -> dict[str, object]:
        found: dict[str, object] = self.inspected["Docker"]["config"]
        return found

    @property
    def layers(self) -> list[str]:
        return list(self.inspected["OCIv1"]["rootfs"]["diff_ids"])
