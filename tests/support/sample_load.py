"""Publishes samples to a bus with a sample store until it is killed: `python sample_load.py DIR N`.

Sample N of each series is ten seconds after the one before, from ten hours ago on, so that windows
are sealed while it runs. It goes on after the last sample in the log.
"""

import asyncio
import sys
from pathlib import Path

from almenara.bus.codec import read_latest_observations
from almenara.bus.embedded import EmbeddedBus
from almenara.config import SampleSettings, StorageSettings
from almenara.signals import Sample
from almenara.state.resources import Resources
from almenara.state.sample_store import SampleStore
from almenara.units import SECOND

SERIES = 20
INTERVAL = 10 * SECOND


async def run(folder: Path, start: int) -> None:
    async with (
        EmbeddedBus(StorageSettings(dir=folder)) as bus,
        SampleStore(folder, SampleSettings(flush_interval=0.05), bus) as store,
    ):
        resources = Resources(store)
        after = bus.last_sequence
        latest = await bus.read(lambda connection: read_latest_observations(connection, 1))
        number = 0
        if latest and isinstance(latest[0].signal, Sample):
            number = (latest[0].signal.time - start) // INTERVAL + 1
        async with asyncio.TaskGroup() as group:
            group.create_task(resources.follow(bus, after))
            group.create_task(store.run())
            while True:
                await bus.publish(
                    [
                        Sample(
                            kind="pod", namespace="shop", name=f"web-{each}", metric="requests",
                            value=float(number * 7 + each), time=start + number * INTERVAL,
                        )
                        for each in range(SERIES)
                    ],
                    "load",
                )  # fmt: skip
                number += 1
                if number % 20 == 0:
                    print(number, flush=True)
                    await store.maintain()


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1]), int(sys.argv[2])))
