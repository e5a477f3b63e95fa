"""Live pages for thousands, measured against what people would use instead: `make bench-fanout`."""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from scenario import Figures, Scenario, run


def line(it: Figures) -> str:
    return (
        f"{it.scenario.name:48} cpu {it.cpu:.3f} p50 {it.p50 * 1e3:.0f} p99 {it.p99 * 1e3:.0f}"
        f" max {it.longest * 1e3:.0f} ms rss {it.rss_idle / 2**20:.0f}+{it.rss / 2**20:.0f} MiB"
        f" ({it.rss_client / 1024:.1f} KiB) frames {it.frames:,.0f}/s {it.megabytes:.1f} MB/s"
        f" missing {it.missing} untold {it.untold} live {it.live} dropped {it.dropped}"
        f" viewers {it.cpu_viewers:.2f} lag {it.lag * 1e3:.0f} ms"
        f"{' ' + str(it.storm) if it.storm else ''}"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--one", nargs="+", help="server clients rate [name=value …]")
    options = parser.parse_args()
    server, clients, rate, *more = options.one
    extra = dict(it.split("=") for it in more)
    scenario = Scenario(
        server=server, clients=int(clients), rate=float(rate),
        **{name: int(value) for name, value in extra.items()},
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        print(line(run(scenario, Path(folder))))


if __name__ == "__main__":
    main()
