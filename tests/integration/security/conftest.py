import shutil
from pathlib import Path

import pytest

from support import oidc_provider


@pytest.fixture(scope="session")
def oidc_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the OpenID Connect provider and its libraries."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("the provider needs node and npm")
    folder = tmp_path_factory.mktemp("oidc")
    oidc_provider.install(folder)
    return folder
