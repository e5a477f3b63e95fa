"""Notifications over `kill -9`: every receiver gets every change, in order, none after the end."""

import os
import random
import time
from collections import defaultdict
from functools import partial
from pathlib import Path

from support.application import Almenara
from support.notification_receivers import Answer, HttpReceiver, Request, accept
from support.scripted_alerts import AlertScript
from support.seeds import choose_seed
from support.servers import wait_until

KILLS = int(os.environ.get("ALMENARA_NOTIFICATION_KILLS", "2"))
TIMES = {"group_by": ["..."], "group_wait": 0.1, "group_interval": 0.2}
RECEIVERS = "/api/resources?kind=almenara.receiver"


class Busy:
    """Refuses every third request, which has to be sent again."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, request: Request) -> Answer:
        self.count += 1
        if self.count % 3 == 0:
            request.is_accepted = False
            return 503, {"retry-after": "0"}, b"busy"
        return accept(request)


def statuses(receiver: HttpReceiver, alert: str) -> list[str]:
    """The accepted statuses of an alert, in the order of their arrival."""
    return [
        request.json["status"]
        for request in receiver.requests
        if request.json["groupLabels"]["alert"] == alert and request.is_accepted
    ]


def has_arrived(receiver: HttpReceiver, alert: str, status: str) -> bool:
    return status in statuses(receiver, alert)


def is_delivered(almenara: Almenara) -> bool:
    return all(each["state"]["waiting"] == 0 for each in almenara.get(RECEIVERS))


def test_every_change_arrives_in_order_over_kills(tmp_path: Path) -> None:
    chance = random.Random(choose_seed())
    script = AlertScript(tmp_path)
    alerts = [f"a{number}" for number in range(KILLS)]
    with HttpReceiver() as steady, HttpReceiver(Busy()) as busy:
        receivers = {"steady": steady, "busy": busy}
        configured = [
            {"name": name, "kind": "webhook", "settings": {"url": receiver.url}, "rate_limit": 6000}
            for name, receiver in receivers.items()
        ]
        alerting = {"receivers": configured, "route": {"receivers": list(receivers), **TIMES}}
        config = {**script.config, "alerting": alerting}
        with Almenara(tmp_path / "almenara", config=config) as almenara:
            for alert in alerts:
                killed_at = chance.choice(("firing", "resolved"))
                for status in ("firing", "resolved"):
                    script.set(**{alert: status})
                    if status == killed_at:
                        time.sleep(chance.uniform(0, 0.6))
                        almenara.kill()
                        almenara.launch()
                        wait_until(almenara.ready, "almenara", 60)
                    for name, receiver in receivers.items():
                        arrived = partial(has_arrived, receiver, alert, status)
                        wait_until(arrived, f"{status} of {alert} at {name}", 90)
            wait_until(partial(is_delivered, almenara), "the outbox", 60)
        for receiver in receivers.values():
            for alert in alerts:
                changes = statuses(receiver, alert)
                # A delivery that was under way at a kill is repeated, never out of order.
                assert changes == sorted(changes)
                assert set(changes) == {"firing", "resolved"}
            versions: dict[str, list[int]] = defaultdict(list)
            for request in receiver.requests:
                group, version, _ = request.headers["idempotency-key"].split("/")
                versions[group].append(int(version))
            assert all(order == sorted(order) for order in versions.values())
