import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from support.application import Almenara
from support.raw_nats import RawClient
from support.servers import NatsServer, wait_until
from support.simulated_kubernetes import simulated_kubernetes

DESKTOP = {"width": 1440, "height": 900}


# The loop of playwright must have ended before other modules start theirs.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = os.environ.get("ALMENARA_CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport=DESKTOP, color_scheme="dark")  # type: ignore[arg-type]
    page = context.new_page()
    page.set_default_timeout(15_000)
    yield page
    context.close()


@pytest.fixture
def publisher(nats_server: NatsServer) -> Iterator[RawClient]:
    client = RawClient(nats_server.port)
    client.make_stream("FLEET", "fleet.>")
    yield client
    client.close()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Almenara]:
    """An Almenara with a simulated cluster of 80 pods and nothing else."""
    folder = tmp_path_factory.mktemp("kubernetes")
    with (
        simulated_kubernetes(folder, 80) as settings,
        Almenara(folder, "nats://127.0.0.1:1", plugins__disabled="[nats]", **settings) as almenara,
    ):
        wait_until(
            lambda: "context-indexer" in almenara.text("/dashboards/kubernetes"), "the cluster"
        )
        yield almenara
