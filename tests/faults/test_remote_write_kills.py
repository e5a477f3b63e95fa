"""Kills of Almenara while it sends samples, and a receiver that is away: every sample arrives."""

from collections import Counter
from pathlib import Path

from support.application import Almenara
from support.counting_plugin import expected_samples, write_plugin
from support.remote_write import Receiver
from support.servers import wait_until

TOTAL = 2_000


def test_every_sample_arrives_after_kills_and_absence(tmp_path: Path) -> None:
    receiver = Receiver().start()
    config = {
        "plugins_dir": str(write_plugin(tmp_path / "plugins")),
        "plugins": {"counter": {"total": TOTAL}},
        "samples": {"remote_write": [{"url": receiver.url, "metrics": ["test.count"]}]},
    }
    almenara = Almenara(tmp_path / "almenara", config=config)

    def arrived() -> int:
        return len({(labels, time) for labels, time, _ in receiver.rows})

    try:
        almenara.start()
        wait_until(lambda: arrived() > 200, "the first samples")
        almenara.kill()
        almenara.start()
        wait_until(lambda: arrived() > 600, "samples after a kill")
        receiver.stop()
        wait_until(lambda: "does not accept any" in almenara.text("/api/sources"), "a report")
        almenara.kill()
        almenara.start()
        receiver.start()
        wait_until(lambda: arrived() == TOTAL, "every sample")
    finally:
        almenara.stop()
        receiver.stop()
    received = {(dict(labels)["name"], time): value for labels, time, value in receiver.rows}
    assert received == expected_samples(TOTAL)
    # Each of the two kills repeats the samples of one request at most.
    assert max(Counter(receiver.rows).values()) <= 3
