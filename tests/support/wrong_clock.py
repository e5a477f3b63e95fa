"""An Almenara whose system clock is wrong by the seconds in a file."""

import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from almenara import clock

INTERVAL = 0.01


class ClockFile:
    """The file, and the command that starts an Almenara which follows it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "clock"
        self.set(0)

    def set(self, seconds: float) -> None:
        """Let the clock be wrong by some seconds; negative ones are in the past."""
        other = self.path.with_suffix(".new")
        other.write_text(str(seconds), "utf-8")
        other.replace(self.path)

    def serve(self, program: Sequence[str]) -> list[str]:
        """Return the command that starts `program`, a Python module with options, on this clock."""
        python, *options = program
        return [python, __file__, str(self.path), *options[2:], "serve"]


def follow(path: Path) -> None:
    """Replace the time of day by one that is wrong by what the file has."""
    offset = 0

    def read() -> None:
        nonlocal offset
        while True:
            offset = round(float(path.read_text("utf-8")) * 1_000_000)
            time.sleep(INTERVAL)

    threading.Thread(target=read, daemon=True).start()
    clock.SystemClock.now = lambda _: time.time_ns() // 1_000 + offset  # type: ignore[method-assign]


def main() -> None:
    from almenara.cli import main as run

    follow(Path(sys.argv.pop(1)))
    run()


if __name__ == "__main__":
    main()
