"""Configurations that would expose data, on a real start."""

import asyncio
from pathlib import Path

import pytest

from support.application import Almenara

pytestmark = pytest.mark.anyio


async def test_start_is_refused_where_data_would_be_public(tmp_path: Path) -> None:
    refusals: tuple[tuple[dict[str, str], str], ...] = (
        ({"AUTH__MODE": "none", "SERVER__HOST": "0.0.0.0"}, "insecure-none"),
        ({"AUTH__MODE": "none", "SERVER__ALLOWED_HOSTS": "[watch.example]"}, "insecure-none"),
        ({"AUTH__MODE": "proxy"}, "server.trusted_proxies"),
        ({"AUTH__MODE": "proxy", "SERVER__TRUSTED_PROXIES": "[10.0.0.0/8]"}, "auth.proxy.secret"),
        ({"AUTH__MODE": "oidc"}, "auth.oidc"),
        ({"AUTH__MODE": "kubernetes"}, "auth.roles"),
        ({"AUTH__MODE": "token", "AUTH__TOKEN": "short"}, "shorter"),
        ({"AUTH__AUTHORIZATION": "kubernetes"}, "auth.authorization"),
    )

    def refused(number: int) -> str:
        settings = refusals[number][0]
        almenara = Almenara(tmp_path / str(number), "nats://127.0.0.1:1", **settings)
        done = almenara.command("serve")
        assert done.returncode == 1, settings
        return " ".join(done.stderr.replace("│", " ").split())

    answers = await asyncio.gather(
        *(asyncio.to_thread(refused, each) for each in range(len(refusals)))
    )
    for (settings, expected), message in zip(refusals, answers, strict=True):
        assert expected in message, (settings, message)
