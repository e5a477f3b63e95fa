"""Rules of ingest and retention in a running Almenara, and what the Sources page counts."""

from pathlib import Path

from almenara.bus.codec import event_key
from almenara.signals import Event
from support.application import Almenara
from support.servers import wait_until

PLUGIN = """
import asyncio, almenara
from almenara.signals import Event, Severity, now

class Noise:
    name = "noise"
    async def run(self, publish):
        for number in range(300):
            await publish([
                Event(id=f"{kind}-{number}", source="noise", type=f"n.{kind}", time=now(),
                      severity=Severity.ERROR if number % 50 == 0 else Severity.INFO)
                for kind in ("token", "debug", "short", "rare")
            ])
        await asyncio.Event().wait()

@almenara.hookimpl
def almenara_sources(settings):
    return [Noise()]
"""
RULES = {
    "ingest_rules": [
        {"match": {"type": "n.debug"}, "keep": 0},
        {"match": {"type": "n.token", "severity_below": "ERROR"}, "keep": 0.1},
        {"match": {"origin": "noise"}, "keep": 1},
    ],
    "retention_rules": [{"match": {"type": "n.short", "severity_below": "ERROR"}, "age": 0.1}],
    "retention_interval": 0.1,
}


def is_stored(kind: str, number: int) -> bool:
    if kind == "token" and number % 50:
        event = Event(id=f"{kind}-{number}", source="noise", type="n.token", time=0)
        return int.from_bytes(event_key(event)[:8], "big") < 0.1 * 2**64
    return kind == "rare" or (kind != "debug" and number % 50 == 0)


def test_rules_hold_over_a_restart_and_are_counted(tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "noise.py").write_text(PLUGIN, "utf-8")
    folder = tmp_path / "almenara"
    config = {
        "plugins_dir": str(tmp_path / "plugins"),
        "storage": {"dir": str(folder / "var"), **RULES},
    }
    almenara = Almenara(folder, config=config)
    expected = {
        f"{kind}-{number}"
        for kind in ("token", "debug", "short", "rare")
        for number in range(300)
        if is_stored(kind, number)
    }
    left_out = 300 + sum(not is_stored("token", number) for number in range(300))

    def stored() -> set[str]:
        return {each["id"] for each in almenara.events("?type=n.*")}

    def counted() -> int:
        (source,) = (each for each in almenara.get("/api/sources") if each["name"] == "noise")
        return int(source["left_out"])

    try:
        # The source publishes the same events at each start.
        for _ in range(2):
            almenara.start()
            wait_until(lambda: stored() == expected, "the events that the rules leave")
            wait_until(lambda: counted() == left_out, "the events that were left out")
            assert f">{left_out}<" in "".join(almenara.text("/sources").split())
            (line,) = (
                each for each in almenara.text("/metrics").splitlines()
                if each.startswith("almenara_source_left_out_total{") and 'source="noise"' in each
            )  # fmt: skip
            assert float(line.split()[-1]) == left_out
            almenara.stop()
    finally:
        almenara.stop()
