import importlib.util
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.api_server import ApiServer, programs, why_not
from support.application import Almenara
from support.servers import NatsServer


def pytest_configure(config: pytest.Config) -> None:
    # Neither Litestar nor Hypothesis is installed where the chart is tested.
    if importlib.util.find_spec("hypothesis") is not None:
        from hypothesis import settings

        # A deadline measures the machine. Each test may set one, where time is its subject.
        settings.register_profile("almenara", deadline=None)
        settings.load_profile("almenara")
    # What Litestar is going to take away is adapted to before it does.
    if importlib.util.find_spec("litestar") is not None:
        config.addinivalue_line(
            "filterwarnings", "error::litestar.exceptions.LitestarDeprecationWarning"
        )


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path / "nats") as server:
        yield server


@pytest.fixture
def almenara(tmp_path: Path, nats_server: NatsServer) -> Iterator[Almenara]:
    with Almenara(tmp_path / "almenara", nats_server.url) as running:
        yield running


@pytest.fixture(scope="session")
def idle_almenara(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Almenara]:
    """One without sources, for all tests that only read."""
    folder = tmp_path_factory.mktemp("idle")
    with Almenara(folder, plugins__disabled="[nats]") as running:
        yield running


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A real kube-apiserver for the tests that leave it standing, each in its own namespace."""
    if programs() is None:
        pytest.skip(why_not())
    with ApiServer(tmp_path_factory.mktemp("apiserver")) as server:
        yield server


@pytest.fixture
def own_api_server(tmp_path: Path) -> Iterator[ApiServer]:
    """A real kube-apiserver that a test may kill, freeze and compact."""
    if programs() is None:
        pytest.skip(why_not())
    with ApiServer(tmp_path / "apiserver") as server:
        yield server


NUMBERS = itertools.count(1)


@pytest.fixture
def namespace(api_server: ApiServer) -> str:
    """A new namespace of the real kube-apiserver."""
    return api_server.namespace(f"test-{next(NUMBERS)}")
