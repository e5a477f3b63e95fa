"""`almenara alerts test`: what a rule would have done, in words."""

import json
from pathlib import Path

import pytest

from almenara.bus.embedded import EmbeddedBus
from almenara.config import StorageSettings
from almenara.signals import Resource, Severity, now
from almenara.units import MINUTE
from support.command_line import run_almenara

pytestmark = pytest.mark.anyio
CONFIG = """
storage: {dir: var}
alerting:
  rules:
  - name: crashing
    when: {resource: {kind: pod, status: [CrashLoop*]}}
    annotations: {summary: "{{ name }} crashes"}
"""
CRASHES = {
    "recovered": (58,),
    "settled": (50, 49, 48, 47),
    "flapping": (5, 4, 3, 2),
    "broken": (1,),
}
"""Minutes ago at which pods begin to crash, each for half a minute, but the broken one."""


def make_pod(name: str, ago: float, status: str) -> Resource:
    return Resource(
        kind="pod", namespace="prod", name=name, status=status, origin="kube",
        severity=Severity.INFO, time=now() - round(ago * MINUTE),
    )  # fmt: skip


async def test_alerts_test_prints_how_each_alert_ended(tmp_path: Path) -> None:
    pods = []
    for name, crashes in CRASHES.items():
        for ago in crashes:
            pods.append(make_pod(name, ago, "CrashLoopBackOff"))
            if name != "broken":
                pods.append(make_pod(name, ago - 0.5, "Running"))
    async with EmbeddedBus(StorageSettings(dir=tmp_path / "var")) as bus:
        await bus.publish(sorted(pods, key=lambda pod: pod.time), "kube")
    (tmp_path / "almenara.yaml").write_text(CONFIG, "utf-8")
    command = ("--config", "almenara.yaml", "alerts", "test", "crashing", "--since", "1h")
    tried = run_almenara(tmp_path, *command)
    assert tried.returncode == 0, tried.stderr
    *lines, total = tried.stdout.splitlines()
    by_pod: dict[str, list[str]] = {}
    for line in lines:
        _, *words, name, _ = line.split()
        by_pod.setdefault(name, []).append(" ".join(words))
    assert by_pod == {
        "recovered": ["for 30 s"],
        "settled": ["for 30 s", "for 30 s", "for 30 s", "for 10.5 min, flapping"],
        "flapping": ["for 30 s", "for 30 s", "for 30 s", "still flapping"],
        "broken": ["still firing"],
    }
    assert total.startswith("crashing would have fired 10 times for 4 alerts")
    printed = run_almenara(tmp_path, *command, "--json").stdout
    statuses = [json.loads(line)["status"] for line in printed.splitlines()]
    assert statuses == ["resolved"] * 8 + ["flapping", "firing"]
