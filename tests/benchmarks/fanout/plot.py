"""Draws the figures: `plot.py <figures.json> <picture.svg>`, in the environment of the peers."""

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


def keeps_up(row: dict[str, Any]) -> bool:
    short = row["expected"] > 0 and row["frames"] < row["expected"] * 0.97
    return not (row["p99"] > 1.0 or short or row["missing"] or row["unreported"])


def main() -> None:
    figures = json.loads(Path(sys.argv[1]).read_text())["figures"]
    plain = [
        row for row in figures
        if row["scenario"]["server"] in NAMES
        and not any(row["scenario"].get(name) for name in ("slow", "stalled", "storm"))
        and row["scenario"].get("filters", 1) == 1
    ]  # fmt: skip
    picture, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for server, name in NAMES.items():
        points = sorted(
            (row["scenario"]["clients"], row["cpu"], keeps_up(row)) for row in plain
            if row["scenario"]["server"] == server and row["scenario"]["rate"] == 1000
            and row["scenario"]["clients"]
        )  # fmt: skip
        left.plot(
            [point[0] for point in points],
            [point[1] for point in points],
            "-",
            color=COLOURS[server],
            label=name,
        )
        for clients, cpu, kept_up in points:
            left.plot(clients, cpu, "o" if kept_up else "x", color=COLOURS[server], markersize=7)
    left.set(
        xscale="log", xlabel="clients", ylabel="processor cores", ylim=(0, 1.08),
        title="1,000 events/s (× could not keep up)",
    )  # fmt: skip
    left.legend(frameon=False)
    rates = (10, 1000, 10000)
    cores = {
        (row["scenario"]["clients"], row["scenario"]["rate"]): row["cpu"] for row in plain
        if row["scenario"]["server"] == "almenara"
    }  # fmt: skip
    places = range(len(rates))
    alone = [cores[0, rate] for rate in rates]
    viewers = [max(cores[5000, rate] - cores[0, rate], 0) for rate in rates]
    right.bar(places, alone, 0.55, color="#94a3b8", label="ingest, no viewers")
    right.bar(places, viewers, 0.55, bottom=alone, color=COLOURS["almenara"], label="5,000 viewers")
    right.set(
        xlabel="events a second", ylabel="processor cores", ylim=(0, 1.08),
        title="Almenara with 5,000 clients",
    )  # fmt: skip
    right.set_xticks(places, [f"{rate:,}" for rate in rates])
    right.legend(frameon=False)
    for axes in (left, right):
        axes.grid(axis="y", alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    picture.savefig(sys.argv[2], facecolor="white", metadata={"Date": None})


if __name__ == "__main__":
    main()
