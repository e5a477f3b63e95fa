import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine import ALMENARA

from app import Almenara

os.environ["ALMENARA_COMMAND"] = str(ALMENARA)
# The programs that come with the product's environment: a NATS server.
os.environ["PATH"] += os.pathsep + str(ALMENARA.parent)


@pytest.fixture(scope="session")
def metric_names(tmp_path_factory: pytest.TempPathFactory) -> Iterator[set[str]]:
    """The names of the figures that a running Almenara has."""
    folder: Path = tmp_path_factory.mktemp("metrics")
    with Almenara(
        folder,
        config={
            "auth": {"open_metrics": True},
            "plugins": {"http": {"checks": [{"name": "a", "url": "http://[::1]:9"}]}},
        },
    ) as it:
        yield set(re.findall(r"^# TYPE (\w+)", it.text("/metrics"), re.MULTILINE))
