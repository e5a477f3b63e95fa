from collections.abc import Iterator

import pytest

from watched import Watched, watching


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watching(tmp_path_factory.mktemp("access")) as running:
        yield running
