import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.application import Almenara
from support.chart.engine import ALMENARA
from support.chart.image import POSSIBLE, WHY_NOT, Image
from support.paths import ROOT

os.environ["ALMENARA_COMMAND"] = str(ALMENARA)
# The programs that come with the product's environment: a NATS server, kubectl.
os.environ["PATH"] += os.pathsep + str(ALMENARA.parent)


@pytest.fixture(scope="session")
def metric_names(tmp_path_factory: pytest.TempPathFactory) -> Iterator[set[str]]:
    """The names of the figures that a running Almenara has."""
    folder: Path = tmp_path_factory.mktemp("metrics")
    with Almenara(
        folder,
        config={
            "auth": {"public_metrics": True},
            "plugins": {"http": {"checks": [{"name": "a", "url": "http://[::1]:9"}]}},
        },
    ) as each:
        yield set(re.findall(r"^# TYPE (\w+)", each.text("/metrics"), re.MULTILINE))


@pytest.fixture(scope="session")
def programs() -> Path:
    """The folder with helm, the controllers of Kubernetes and a node."""
    build = ROOT / "tests" / "kubernetes" / "build-cluster"
    result = subprocess.run([build, "--found"], capture_output=True, text=True, check=False)
    if result.returncode:
        pytest.skip(result.stderr)
    return Path(result.stdout.strip())


@pytest.fixture(scope="session")
def image_work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where images are built, by one at a time."""
    return tmp_path_factory.mktemp("image")


@pytest.fixture(scope="session")
def image(image_work: Path) -> Image:
    """The image with every extra."""
    if not POSSIBLE:
        pytest.skip(WHY_NOT)
    return Image(image_work, "almenara", "--timestamp", "1700000000")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker also without pytest-xdist."""
    config.addinivalue_line("markers", "xdist_group(name): tests that one process runs")


def pytest_itemcollected(item: pytest.Item) -> None:
    """A file is one process's, where there are several; those with the image share it."""
    name = item.path.stem
    group = "image" if name in ("test_image", "test_operations") else name
    item.add_marker(pytest.mark.xdist_group(group))
