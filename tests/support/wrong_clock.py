"""An Almenara whose time is that of a file: its system clock is wrong, or time passes faster."""

import asyncio
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
        self.wrong, self.passed = 0.0, 0.0
        self._write()

    def set(self, seconds: float) -> None:
        """Let the clock be wrong by some seconds; negative ones are in the past."""
        self.wrong = seconds
        self._write()

    def advance(self, seconds: float) -> None:
        """Let time pass at once: for what waits as well, and not for the system clock alone."""
        self.passed += seconds
        self._write()

    def monotonic(self) -> float:
        """Return the time that has passed, as Almenara measures it."""
        return time.monotonic() + self.passed

    def _write(self) -> None:
        other = self.path.with_suffix(".new")
        other.write_text(f"{self.wrong} {self.passed}", "utf-8")
        other.replace(self.path)

    def serve(self, program: Sequence[str]) -> list[str]:
        """Return the command that starts `program`, a Python module with options, on this clock."""
        python, *options = program
        return [python, __file__, str(self.path), *options[2:], "serve"]


class FileClock(clock.SystemClock):
    """The clock that follows the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read()
        threading.Thread(target=self._follow, daemon=True).start()

    def _read(self) -> None:
        self.wrong, self.passed = map(float, self.path.read_text("utf-8").split())

    def _follow(self) -> None:
        while True:
            self._read()
            time.sleep(INTERVAL)

    def now(self) -> int:
        return time.time_ns() // 1_000 + round((self.wrong + self.passed) * 1_000_000)

    def monotonic(self) -> float:
        return time.monotonic() + self.passed

    async def sleep(self, seconds: float) -> None:
        end = self.monotonic() + seconds
        while (left := end - self.monotonic()) > 0:
            await asyncio.sleep(min(left, INTERVAL))


def follow(path: Path) -> None:
    """Replace the clock of every thread by that of the file."""
    file_clock = FileClock(path)
    for name in ("now", "monotonic", "sleep"):
        setattr(clock.SystemClock, name, staticmethod(getattr(file_clock, name)))


def main() -> None:
    from almenara.cli import main as run

    follow(Path(sys.argv.pop(1)))
    run()


if __name__ == "__main__":
    main()
