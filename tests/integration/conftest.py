from collections.abc import Iterator

import pytest

from support.secured_server import SecuredServer, run_secured_server


@pytest.fixture(scope="session")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredServer]:
    """One for all tests that leave events, tokens and settings as they are."""
    with run_secured_server(tmp_path_factory.mktemp("access")) as running:
        yield running
