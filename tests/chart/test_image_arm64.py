"""The image for arm64, built where nothing of it could be run, and then run by QEMU.

It needs what building an image needs, and the kernel to run what is of arm64: Debian's
qemu-user-static with binfmt-support. It skips where either is missing.
"""

import subprocess
import urllib.request
from pathlib import Path

import pytest

from support.application import Almenara
from support.chart.engine import render, workload
from support.chart.image import OWN, POSSIBLE, WHY_NOT, Image, run_in
from support.servers import free_port, wait_until

EMULATED = Path("/proc/sys/fs/binfmt_misc/qemu-aarch64")
FIXED = "F" in (
    EMULATED.read_text().partition("flags:")[2].partition("\n")[0] if EMULATED.exists() else ""
)
"""Whether the kernel runs QEMU from outside of the image's root: the flag F of its entry."""
PATIENCE = 300.0
"""Seconds that an emulated start may take; it is some ten times what it takes otherwise."""
AARCH64 = 183
"""What the header of an ELF file has for it, at byte 18: EM_AARCH64."""

pytestmark = [
    pytest.mark.skipif(not POSSIBLE, reason=WHY_NOT),
    pytest.mark.skipif(
        OWN != "arm64" and not FIXED,
        reason="running what is of arm64 needs qemu-user-static and binfmt-support",
    ),
]


@pytest.fixture(scope="module")
def arm64(image_work: Path) -> Image:
    return Image(image_work, "arm64", "--timestamp", "1700000000", architecture="arm64")


def test_arm64_image_has_only_arm64_binaries(arm64: Image) -> None:
    assert arm64.inspected["OCIv1"]["architecture"] == "arm64"
    machines = {}
    for each in (arm64.root / "opt" / "almenara").rglob("*"):
        if each.is_file() and not each.is_symlink():
            with each.open("rb") as file:
                header = file.read(20)
            if header.startswith(b"\x7fELF"):
                machines[each.name] = int.from_bytes(header[18:20], "little")
    # msgspec, uvloop and httptools at the least.
    assert len(machines) > 10
    assert set(machines.values()) == {AARCH64}, machines


def test_arm64_image_bytecode_matches_its_python(arm64: Image) -> None:
    packages = next((arm64.root / "opt" / "almenara").glob("lib/python3*/site-packages"))
    compiled = next((packages / "almenara" / "__pycache__").glob("runtime.*.pyc")).read_bytes()
    said = subprocess.run(
        ["chroot", arm64.root, "/opt/almenara/bin/python", "-c",
         "import importlib.util, platform;"
         "print(platform.machine(), importlib.util.MAGIC_NUMBER.hex())"],
        capture_output=True, text=True, check=True, timeout=PATIENCE,
    ).stdout.split()  # fmt: skip
    assert said == ["aarch64", compiled[:4].hex()]


def test_arm64_image_serves_read_only_as_other_user(arm64: Image, tmp_path: Path) -> None:
    port = free_port()
    command, data = run_in(arm64, tmp_path, "serve", port=port)
    server = workload(render({}))["spec"]["template"]["spec"]["containers"][0]
    product = Almenara(tmp_path / "product", config={"server": {"port": port}}, serve=command)
    product.launch()
    try:
        wait_until(product.ready, "readiness", PATIENCE)
        assert product.process is not None
        status = Path(f"/proc/{product.process.pid}/status").read_text()
        facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert set(facts["Uid"].split()) == {"10001"}
        for name in ("startupProbe", "livenessProbe", "readinessProbe"):
            path = server[name]["httpGet"]["path"]
            with urllib.request.urlopen(product.url + path, timeout=60) as response:
                assert response.status == 200
        assert "<h1" in product.text("/")
        assert any(data.glob("almenara.*"))
        with pytest.raises(OSError, match="Read-only file system"):
            (Path(f"/proc/{product.process.pid}/root") / "opt" / "almenara" / "x").write_text("")
    finally:
        assert product.stop() == 0
