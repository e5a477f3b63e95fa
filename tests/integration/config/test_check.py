"""`almenara config check`."""

from pathlib import Path

import pytest

from support.application import Almenara

pytestmark = pytest.mark.anyio


async def test_config_check_reports_errors_with_a_remedy(tmp_path: Path) -> None:
    almenara = Almenara(tmp_path / "a", "nats://127.0.0.1:1")
    config = tmp_path / "almenara.yaml"
    for text, said in (
        ("server:\n  prot: 1\n", "did you mean port?"),
        ("server:\n  drain_period: many\n", "server.drain_period"),
        ("plugins:\n  nast: {}\n", "plugins.nast"),
        ("intake:\n  a:\n    kind: rya\n", "did you mean ray?"),
        ("plugins:\n  nats:\n    stream: []\n", "did you mean streams?"),
        ("plugins:\n  nats:\n    start: yesterday\n", "start must be all, new"),
        ("plugins:\n  nats:\n    durable: a b\n", "durable must consist of"),
        ("a: [", "not YAML"),
    ):
        config.write_text(text)
        done = almenara.command("--config", str(config), "config", "check")
        assert done.returncode == 1
        assert said in " ".join(done.stderr.replace("│", " ").split()), done.stderr
