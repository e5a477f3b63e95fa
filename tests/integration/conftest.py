from collections.abc import Iterator

import pytest

from support.kubernetes_source import Watched, watching


@pytest.fixture(scope="session")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """One for all tests that leave events, tokens and settings as they are."""
    with watching(tmp_path_factory.mktemp("access")) as running:
        yield running
