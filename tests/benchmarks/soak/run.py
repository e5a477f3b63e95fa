"""The demo with faults in turn, and a checker that compares what is displayed with the truth.

`make soak` runs it for SOAK_SECONDS (7,200 by default) with the seed SOAK_SEED. Every server of the
demo is killed, frozen, slowed, cut off and replaced by one that lies, one fault after another and
several servers at a time; Almenara is killed as well. Each second, the JSON API, the pages and the
live channels are compared with the truth: what a server that fails is shown as after 10 s, what a
healthy one is shown as after 30 s, and numbers that are older than that. At the end, the events in
history are compared with the messages in the streams.

Seconds in which the machine kept the checker or Almenara from running are not judged, and counted.
`--short` ends after one fault of each server, and has wider limits.
"""

import asyncio
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))

from soak.checker import Checker, Limits
from soak.history import HistoryChecker, Publisher
from soak.servers import AMBIGUOUS, Server, run_servers
from soak.states import States

from almenara_demo.nats_load import create_streams
from support.application import Almenara

SHORT = "--short" in sys.argv
SECONDS = float(os.environ.get("SOAK_SECONDS", "240" if SHORT else "7200"))
SEED = int(os.environ.get("SOAK_SEED", "7" if SHORT else "1"))
RATE = float(os.environ.get("SOAK_RATE", "30"))
"""Events a second."""
LIMITS = Limits(failure=20.0, recovery=90.0, number=30.0) if SHORT else Limits()
"""The short form runs where nothing is known of the speed of the machine."""
HOLD = (22.0, 25.0) if SHORT else (14.0, 35.0)
"""Seconds that a fault lasts, of those that are judged."""
REST = (33.0, 50.0)
"""Seconds without a fault between two of one server."""
KILL_EVERY = (200.0, 400.0)
"""Seconds between two kills of Almenara."""
REPORT_EVERY = 300.0


async def trouble(
    server: Server, states: States, checker: Checker, counts: Counter[str], seed: str
) -> None:
    """Give a server one fault after another, all kinds in turn, until cancelled; in the short form
    only one."""
    draw = random.Random(seed)
    await asyncio.sleep(draw.uniform(3, 8) if SHORT else draw.uniform(15, 60))
    while True:
        for fault in draw.sample(server.faults, len(server.faults)):
            states.begin(server.name, fault, is_ambiguous=fault in AMBIGUOUS)
            await asyncio.to_thread(server.apply, fault)
            counts[f"{server.name} {fault}"] += 1
            started = time.strftime("%H:%M:%S")
            await checker.wait(draw.uniform(*HOLD))
            await asyncio.to_thread(server.heal, fault)
            states.end(server.name)
            print(f"{started} to {time.strftime('%H:%M:%S')} {server.name} {fault}", flush=True)
            if SHORT:
                return
            await asyncio.sleep(draw.uniform(*REST))


async def kill_almenara(
    almenara: Almenara, checker: Checker, counts: Counter[str], seed: str
) -> None:
    """Kill Almenara and start it again, until cancelled."""
    draw = random.Random(seed)
    while True:
        await asyncio.sleep(draw.uniform(*KILL_EVERY))
        async with checker.paused():
            await asyncio.to_thread(almenara.kill)
            await asyncio.to_thread(almenara.start)
            print(f"{time.strftime('%H:%M:%S')} almenara killed and started", flush=True)
        counts["almenara kill"] += 1


async def report_regularly(checker: Checker, counts: Counter[str], started: float) -> None:
    """Print how it goes, until cancelled."""
    while True:
        await asyncio.sleep(REPORT_EVERY)
        seconds, faults = time.monotonic() - started, sum(counts.values())
        print(f"{seconds:6.0f} s: {faults} faults, {checker.summary}", flush=True)


async def soak(folder: Path) -> int:
    """Run everything; return the exit code."""
    counts: Counter[str] = Counter()
    started = time.monotonic()
    with run_servers(folder / "servers") as (servers, settings):
        nats_url = f"nats://127.0.0.1:{servers['nats'].port}"
        await create_streams([nats_url])
        almenara = Almenara(folder / "almenara", **settings)
        almenara.start()
        states = States(servers)
        publisher = Publisher(nats_url, RATE, SEED)
        history = HistoryChecker(almenara, publisher, states)
        checker = Checker(almenara, servers, states, publisher, LIMITS)
        background = [
            asyncio.create_task(call)
            for call in (
                publisher.run(),
                history.run(),
                checker.run(),
                report_regularly(checker, counts, started),
                kill_almenara(almenara, checker, counts, f"{SEED} almenara"),
            )
        ]
        troubles = asyncio.gather(
            *(
                trouble(server, states, checker, counts, f"{SEED} {name}")
                for name, server in servers.items()
            )
        )
        tasks = [*background, troubles]
        try:
            done, _ = await asyncio.wait(
                tasks, timeout=SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for server in servers.values():
                await asyncio.to_thread(server.restore)
        problems = await history.finish()
        if not history.stored or not checker.counts["seconds judged"]:
            problems.append("nothing was published, or no second was judged")
        almenara.stop()
        text = almenara.log
    shutil.copy(folder / "almenara" / "almenara.log", os.environ.get("SOAK_LOG", os.devnull))
    print(f"\nsoak of {time.monotonic() - started:.0f} s, seed {SEED}, {RATE:g} events a second")
    print(f"faults: {sum(counts.values())}: " + json.dumps(dict(sorted(counts.items()))))
    print(checker.summary)
    print(history.summary)
    print(f"errors in the log: {text.count('Traceback')}")
    for problem in [*checker.violations, *problems]:
        print(f"VIOLATION {problem}", file=sys.stderr)
    return 1 if checker.violations or problems else 0


def interrupt(*_: object) -> None:
    """Stop as Ctrl-C does, so that no server is left running."""
    raise KeyboardInterrupt


def main() -> int:
    signal.signal(signal.SIGTERM, interrupt)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        return asyncio.run(soak(Path(folder)))


if __name__ == "__main__":
    sys.exit(main())
