"""`almenara backup`: a copy of a running bus has its whole history."""

import threading
from pathlib import Path

from support.application import Almenara
from support.raw_nats import RawClient
from support.servers import NatsServer


def test_backup_under_load_restores_every_event_once(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    client = RawClient(nats_server.port)
    client.make_stream("FLEET", "fleet.>")
    over = threading.Event()
    published: list[int] = []

    def publish() -> None:
        sender = RawClient(nats_server.port)
        while not over.wait(0.002):
            published.append(len(published))
            sender.publish("fleet.load", b'{"event_type": "LOAD", "n": %d}' % published[-1])
        sender.close()

    thread = threading.Thread(target=publish)
    copy = tmp_path / "copy.db"
    with Almenara(tmp_path / "first", nats_server.url) as almenara:
        thread.start()
        almenara.wait_for_events(300)
        before = {each["data"]["n"] for each in almenara.events() if each["type"] == "LOAD"}
        done = almenara.command("backup", str(copy))
        assert done.returncode == 0, done.stderr
        assert almenara.command("backup", str(copy)).returncode == 1
        count = len(published)
        almenara.wait_for_events(count)
        over.set()
        thread.join()
    copied = int(done.stdout.split("contains ")[1].split()[0].replace(",", ""))
    assert copied >= len(before)

    # Another installation, of which nothing is left but the copy.
    restored = Almenara(tmp_path / "second", nats_server.url)
    (tmp_path / "second" / "var").mkdir()
    copy.rename(tmp_path / "second" / "var" / "almenara.db")
    with restored:
        restored.wait_for_events(len(published))
        restored_numbers = [
            each["data"]["n"] for each in restored.events() if each["type"] == "LOAD"
        ]
    # What the copy had, and from the stream what came after it: each once.
    assert before <= set(restored_numbers)
    assert sorted(restored_numbers) == published
