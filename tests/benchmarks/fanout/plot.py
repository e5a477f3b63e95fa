"""The picture of the figures: `plot.py <figures.json> <picture.svg>`, in the peers' environment."""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "almenara"
import matplotlib.pyplot as plt

COLOURS = {"almenara": "#c2570c", "naive": "#64748b", "plugin": "#7c3aed", "nats": "#0f766e"}
NAMES = {
    "almenara": "Almenara",
    "naive": "naive broadcaster",
    "plugin": "Litestar ChannelsPlugin",
    "nats": "nats-server WebSocket",
}


def held(it: dict[str, Any]) -> bool:
    short = it["expected"] > 0 and it["frames"] < it["expected"] * 0.97
    return not (it["p99"] > 1.0 or short or it["missing"] or it["untold"])


def main() -> None:
    figures = json.loads(Path(sys.argv[1]).read_text())["figures"]
    plain = [
        it for it in figures
        if it["scenario"]["server"] in NAMES
        and not any(it["scenario"].get(name) for name in ("slow", "stalled", "storm"))
        and it["scenario"].get("filters", 1) == 1
    ]  # fmt: skip
    picture, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for server, name in NAMES.items():
        at = sorted(
            (it["scenario"]["clients"], it["cpu"], held(it)) for it in plain
            if it["scenario"]["server"] == server and it["scenario"]["rate"] == 1000
            and it["scenario"]["clients"]
        )  # fmt: skip
        left.plot(
            [it[0] for it in at], [it[1] for it in at], "-", color=COLOURS[server], label=name
        )
        for clients, cpu, kept in at:
            left.plot(clients, cpu, "o" if kept else "x", color=COLOURS[server], markersize=7)
    left.set(
        xscale="log", xlabel="clients", ylabel="processor cores", ylim=(0, 1.08),
        title="1,000 events/s (× could not keep up)",
    )  # fmt: skip
    left.legend(frameon=False)
    rates = (10, 1000, 10000)
    found = {
        (it["scenario"]["clients"], it["scenario"]["rate"]): it["cpu"] for it in plain
        if it["scenario"]["server"] == "almenara"
    }  # fmt: skip
    places = range(len(rates))
    alone = [found[0, rate] for rate in rates]
    viewers = [max(found[5000, rate] - found[0, rate], 0) for rate in rates]
    right.bar(places, alone, 0.55, color="#94a3b8", label="ingest, nobody looks")
    right.bar(places, viewers, 0.55, bottom=alone, color=COLOURS["almenara"], label="5,000 viewers")
    right.set(
        xlabel="events a second", ylabel="processor cores", ylim=(0, 1.08),
        title="Almenara with 5,000 clients",
    )  # fmt: skip
    right.set_xticks(places, [f"{it:,}" for it in rates])
    right.legend(frameon=False)
    for axes in (left, right):
        axes.grid(axis="y", alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    picture.savefig(sys.argv[2], facecolor="white", metadata={"Date": None})


if __name__ == "__main__":
    main()
