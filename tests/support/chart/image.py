"""The image of the Dockerfile, built without a daemon and mounted as a folder."""

import json
import os
import platform
import shutil
import subprocess
from pathlib import Path

import yaml

from support.chart import engine
from support.chart.engine import render
from support.chart.root import isolated
from support.paths import TESTS

BUILD = TESTS / "chart" / "build-image"
POSSIBLE = os.geteuid() == 0 and all(map(shutil.which, ("buildah", "debootstrap")))
WHY_NOT = "building the image needs root, buildah and debootstrap"
OWN = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
"""The architecture of this machine, as images have it."""
ENVIRONMENT = {
    "PATH": "/opt/almenara/bin:/usr/local/bin:/usr/bin:/bin",
    "HOME": "/tmp",
    "ALMENARA_CONFIG": "/etc/almenara/almenara.yaml",
}
"""What its processes are given, as the chart has it."""


class Image:
    """The image for an architecture, with further options of buildah."""

    def __init__(self, work: Path, name: str, *options: str, architecture: str = OWN) -> None:
        done = subprocess.run(
            [BUILD, work, name, architecture, *options],
            capture_output=True, text=True, check=False, timeout=900,
        )  # fmt: skip
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
        result: dict[str, object] = self.inspected["Docker"]["config"]
        return result

    @property
    def layers(self) -> list[str]:
        return list(self.inspected["OCIv1"]["rootfs"]["diff_ids"])


def run_in(image: Image, tmp_path: Path, *arguments: str, port: int = 0) -> tuple[list[str], Path]:
    """How to begin a command in the image, with the volumes of the rendered pod."""
    tmp_path.mkdir(exist_ok=True)
    manifests = render({})
    config = engine.configuration(manifests)
    if port:
        config["server"].update(port=port, drain_period=1.0)
        # Who may look is not what is looked at here.
        config["auth"] = {"mode": "insecure-none"}
    (tmp_path / "almenara.yaml").write_text(yaml.safe_dump(config))
    data, temporary = tmp_path / "data", tmp_path / "tmp"
    for folder in (data, temporary):
        folder.mkdir()
        os.chown(folder, 10001, 10001)
    entry = list(image.config["Entrypoint"])  # type: ignore[call-overload]
    return isolated(
        image.root, [*entry, *arguments], environment=ENVIRONMENT,
        writable={"/data": data, "/tmp": temporary},
        readable={"/etc/almenara/almenara.yaml": tmp_path / "almenara.yaml"},
    ), data  # fmt: skip
