"""The page of the own account, with sign-in on."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from support.application import Almenara
from support.servers import wait_until


@pytest.fixture
def almenara(tmp_path: Path) -> Iterator[Almenara]:
    with Almenara(tmp_path, auth__mode="token", plugins__disabled="[nats]") as running:
        yield running


def test_reload_after_a_token_was_created_creates_no_other(almenara: Almenara, page: Page) -> None:
    secret = almenara.command("access", "rotate").stdout.strip()
    # A running server reads the file of tokens again after a while.
    wait_until(lambda: 'name="token"' in almenara.text("/sign-in"), "the access token")
    page.goto(almenara.url + "/account")
    page.locator("#token").fill(secret)
    page.keyboard.press("Enter")
    page.get_by_label("Name", exact=True).fill("nightly")
    page.get_by_role("button", name="Create").click()
    expect(page.locator("#created-token")).to_be_visible()
    rows = page.get_by_role("row", name="nightly")
    expect(rows).to_contain_text("in 7 d")
    page.reload()
    expect(page.locator("#created-token")).to_have_count(0)
    expect(rows).to_have_count(1)
