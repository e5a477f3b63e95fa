"""A NATS server that is restored from an older copy: nothing lost, nothing twice, and it is said.

Its sequences are used again by new messages. `RESTORES` sets how often it happens.
"""

import json
import os
import random
import shutil
from collections import Counter
from pathlib import Path

from support.application import Almenara
from support.raw_nats import RawClient
from support.servers import NatsServer, wait_until

RESTORES = int(os.environ.get("RESTORES", "2"))
SEED = 11
TYPE = "nats.stream.rolled_back"
TEXT = "restored from a copy older than what is in history"


class Publisher:
    """Publishes numbered messages without an id, so that the stream alone tells them apart."""

    def __init__(self, server: NatsServer) -> None:
        self.server, self.published = server, 0

    def publish(self, count: int) -> None:
        client = RawClient(self.server.port)
        for _ in range(count):
            body = {"event_type": "fleet.numbered", "number": self.published}
            client.publish("fleet", json.dumps(body).encode())
            self.published += 1
        client.close()


def numbers(almenara: Almenara) -> Counter[int]:
    """How often each message is in history."""
    events = almenara.events("?type=fleet.numbered")
    return Counter(event["data"]["number"] for event in events)


def test_restored_copy_loses_and_doubles_nothing_and_is_reported(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    server, copy = NatsServer(tmp_path / "nats"), tmp_path / "copy"
    publisher = Publisher(server)
    almenara = Almenara(tmp_path / "almenara", server.url)
    with server:
        client = RawClient(server.port)
        client.make_stream("FLEET", "fleet")
        client.close()
        with almenara:

            def publish(count: int) -> None:
                publisher.publish(count)
                wait_until(
                    lambda: len(numbers(almenara)) == publisher.published, "the messages", 60
                )

            for number in range(RESTORES):
                publish(chance.randrange(20, 200))
                server.stop()
                shutil.rmtree(copy, ignore_errors=True)
                shutil.copytree(server.folder / "data", copy)
                server.start()
                lost = chance.randrange(20, 200)
                publish(lost)
                server.stop()
                shutil.rmtree(server.folder / "data")
                shutil.copytree(copy, server.folder / "data")
                server.start()
                # Fewer than the copy lacks, and more: sequences below and beyond the known one.
                publish(chance.randrange(1, lost) if number % 2 else lost + chance.randrange(50))
                wait_until(
                    lambda number=number: len(almenara.events(f"?type={TYPE}")) == number + 1,
                    "the report",
                )
            assert set(numbers(almenara).values()) == {1}
            assert TEXT in almenara.text(f"/events?type={TYPE}")
            assert "restored from an older copy" in almenara.log
            doctor = almenara.command("doctor")
            assert TEXT in " ".join(doctor.stdout.split()), doctor.stdout
    print(f"{RESTORES} restores, {publisher.published} messages: 0 lost, 0 doubled, all reported")
