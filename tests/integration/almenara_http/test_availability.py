"""The availability of checks by day: from results that are known."""

import re
from pathlib import Path
from typing import Any

from almenara.units import DAY, MILLISECOND
from support.application import Almenara
from support.servers import wait_until

PLUGIN = """
import almenara
from almenara.signals import Resource, Sample, now
from almenara.units import DAY

SUCCESSES = {"shop": {6: 100, 4: 50, 3: 0, 2: 99, 1: 100}, "bank": {5: 100, 1: 98}}
CHECKS_A_DAY = 100

class Results:
    name = "results"

    async def run(self, publish):
        today = now() // DAY * DAY
        for name, days in SUCCESSES.items():
            await publish([Resource(kind="http.check", name=name, status="up")])
            for ago, good in days.items():
                await publish([
                    Sample(kind="http.check", name=name, metric="up", value=float(check < good),
                           time=today - ago * DAY + check * (DAY // CHECKS_A_DAY))
                    for check in range(CHECKS_A_DAY)
                ])

@almenara.hookimpl
def almenara_sources(context):
    return [Results()]
"""
SUCCESSES = {"shop": {6: 1.0, 4: 0.5, 3: 0.0, 2: 0.99, 1: 1.0}, "bank": {5: 1.0, 1: 0.98}}


def test_availability_has_a_bar_for_each_day_with_results(tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "results.py").write_text(PLUGIN)
    with Almenara(
        tmp_path / "almenara",
        plugins_dir=str(plugins),
        plugins__disabled="[nats]",
        plugins__http__checks='[{"name": "other", "url": "http://127.0.0.1:1/", "every": 3600}]',
    ) as almenara:

        def read() -> dict[str, Any]:
            chart = almenara.get("/api/charts/http.availability")
            return {line["name"]: line for line in chart["lines"]} | {"": chart}

        def is_complete() -> bool:
            lines = read()
            return all(
                sum(value is not None for value in lines.get(name, {"values": []})["values"])
                >= len(days)
                for name, days in SUCCESSES.items()
            )

        wait_until(is_complete, "the results", 60)
        lines = read()
        chart = lines.pop("")
        today = (chart["until"] * MILLISECOND) // DAY
        assert (chart["style"], chart["step"] * MILLISECOND) == ("bars", DAY)
        for name, successes in SUCCESSES.items():
            line = lines[name]
            days = {
                today - time * MILLISECOND // DAY: value
                for time, value in zip(line["times"], line["values"], strict=True)
                if value is not None
            }
            # Days without results have no bar: neither 0 nor 100 %.
            assert days == successes
            assert all(time * MILLISECOND % DAY == 0 for time in line["times"])
        levels = {level["value"]: (level["severity"], level["colors"]) for level in chart["levels"]}
        assert levels == {0.99: ("ERROR", "below"), 0.999: ("WARN", "below")}

        # The picture without JavaScript has the same bars.
        text = almenara.text("/panels/http.availability")
        rows = re.findall(r"<dt>(\w+)</dt>(.*?)</div>", text, re.DOTALL)
        drawn = {
            name: dict(re.findall(r'data-tone="(\w+)" d="([^"]*)"', row)) for name, row in rows
        }
        counts = {
            name: {tone: path.count("M") for tone, path in paths.items()}
            for name, paths in drawn.items()
            if name in SUCCESSES
        }
        assert counts == {"shop": {"ok": 2, "ERROR": 2, "WARN": 1}, "bank": {"ok": 1, "ERROR": 1}}
