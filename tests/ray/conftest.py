from collections.abc import Iterator

import pytest

from support.ray_head import RayHead


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHead]:
    """A head that the tests of a file share; none of them ends it."""
    with RayHead(tmp_path_factory.mktemp("ray")) as running:
        yield running
