"""A real OpenID Connect provider: node's oidc-provider, in a process of its own."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Self

import httpx

from support.application import Almenara
from support.paths import TESTS
from support.servers import accepts, free_port, wait_until

HERE = TESTS / "oidc"
SECRET = "of-the-client-in-tests"
LOGGED_OUT = "a logout token was accepted"
"""What the log of the provider has then."""


def install(folder: Path) -> None:
    """Install the provider and its libraries into a folder."""
    for each in HERE.iterdir():
        shutil.copy(each, folder)
    subprocess.run(
        ["npm", "install", "--silent", "--no-audit", "--no-fund", "--no-package-lock"],
        cwd=folder, check=True, timeout=300,
    )  # fmt: skip


class OidcProvider:
    """The provider; it knows `ada` of the group sre, and `grace` of payments."""

    def __init__(self, folder: Path, almenara: str) -> None:
        self.folder, self.port = folder, free_port()
        self.almenara = almenara
        self.logout = ""
        """Where logout tokens are sent; empty for Almenara."""
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "provider.log").read_text("utf-8", "replace")

    def start(self) -> Self:
        environment = {
            **os.environ, "PORT": str(self.port), "SECRET": SECRET,
            "CALLBACK": f"{self.almenara}/sign-in/callback",
            "LOGOUT": f"{self.logout or self.almenara}/sign-in/back-channel-logout",
        }  # fmt: skip
        node = shutil.which("node")
        assert node is not None
        with (self.folder / "provider.log").open("ab") as log:
            self.process = subprocess.Popen(
                [node, "provider.mjs"], cwd=self.folder, env=environment, stdout=log, stderr=log
            )
        wait_until(lambda: accepts(self.port), "the provider")
        return self

    def control(self, what: str) -> None:
        assert httpx.get(f"{self.url}/control/{what}").text == "done"

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            self.process = None


def signed_in(almenara: Almenara, caller: str) -> httpx.Client:
    """A browser that went to the provider and back."""
    browser = httpx.Client(follow_redirects=True, timeout=20)
    browser.cookies.set("who", caller, domain="127.0.0.1", path="/")
    done = browser.get(f"{almenara.url}/sign-in/start", params={"next": "/sources"})
    assert str(done.url).startswith(almenara.url), (done.url, done.text[:500], almenara.log[-1500:])
    return browser
