"""The dispatcher on a real bus, with notifiers that record, fail, block and hang."""

import asyncio
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from almenara.alerting.notifications.dispatcher import OWNER, Dispatcher
from almenara.alerting.notifications.receivers import check_alerting, create_receivers
from almenara.bus.embedded import EmbeddedBus
from almenara.bus.log_state import FencedError
from almenara.bus.shared import SharedBus
from almenara.config import AlertingSettings, StorageSettings, decode_settings
from almenara.errors import NotFound
from almenara.hookspecs import (
    Capabilities,
    Delivery,
    DeliveryError,
    DeliveryRefusedError,
    Notification,
    NotifierKind,
)
from almenara.signals import Event, Resource, Signal, now
from support.alerts import make_alert_resource
from support.memory_log import LogView, MemoryLog

pytestmark = pytest.mark.anyio
FAST = {"group_wait": 0.05, "group_interval": 0.1}


class LineSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    name: str = "ops"


class Line:
    """What notifiers deliver to; `failures` are raised by the next deliveries of a receiver."""

    def __init__(self) -> None:
        self.sent: dict[str, list[Notification]] = defaultdict(list)
        self.attempts: dict[str, int] = defaultdict(int)
        self.failures: dict[str, list[Exception | Callable[[], Any]]] = defaultdict(list)

    def kind(self, capabilities: Capabilities | None = None) -> NotifierKind:
        line = self

        class LineNotifier:
            def __init__(self, settings: LineSettings) -> None:
                self.name = settings.name

            async def notify(self, notification: Notification) -> Delivery:
                line.attempts[self.name] += 1
                if line.failures[self.name]:
                    failure = line.failures[self.name].pop(0)
                    if isinstance(failure, Exception):
                        raise failure
                    await failure()
                line.sent[self.name].append(notification)
                return Delivery(reference=f"m{len(line.sent[self.name])}")

        return NotifierKind(
            name="line", settings=LineSettings, create=LineNotifier,
            capabilities=capabilities or Capabilities(),
        )  # fmt: skip


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[EmbeddedBus]:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as opened:
        yield opened


def make_dispatcher(
    bus: EmbeddedBus | SharedBus,
    line: Line,
    *,
    names: Iterable[str] = ("ops",),
    capabilities: Capabilities | None = None,
    open_alerts: Iterable[Resource] = (),
    route: dict[str, Any] | None = None,
    fallback_after: float = 300.0,
    **fields: Any,
) -> Dispatcher:
    kinds = {"line": line.kind(capabilities)}
    receivers = [
        {
            "name": name,
            "kind": "line",
            "settings": {"name": name},
            **(fields if name == "ops" else {}),
        }
        for name in names
    ]
    tree = {"receivers": receivers, "route": {"receivers": ["ops"], **FAST, **(route or {})}}
    settings = decode_settings(AlertingSettings, tree, place="alerting")
    return Dispatcher(
        bus,
        create_receivers(settings, kinds),
        check_alerting(settings, kinds),
        fallback_after=fallback_after,
        base_url="https://almenara.example.com/",
        open_alerts=lambda: open_alerts,
    )


@asynccontextmanager
async def running(dispatcher: Dispatcher) -> AsyncIterator[None]:
    task = asyncio.create_task(dispatcher.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def signals_of(bus: EmbeddedBus | SharedBus, prefix: str) -> list[Signal]:
    """The signals of the log whose type or kind starts with a prefix."""
    matches: list[Signal] = []
    if bus.last_sequence == 0:
        return matches
    async for batch in bus.subscribe(0):
        for record in batch:
            signal = record.signal
            name = signal.type if isinstance(signal, Event) else signal.kind
            if name.startswith(prefix):
                matches.append(signal)
        if batch[-1].sequence >= bus.last_sequence:
            break
    return matches


async def until_logged(bus: EmbeddedBus | SharedBus, kind: str, count: int = 1) -> None:
    """Wait until the log has that many signals of a type or kind."""
    async with asyncio.timeout(30):
        while len(await signals_of(bus, kind)) < count:
            await asyncio.sleep(0.02)


async def publish(
    bus: EmbeddedBus | SharedBus, status: str, fingerprint: str = "a", **fields: Any
) -> None:
    alert = make_alert_resource(status, fingerprint, **{"time": now(), **fields})
    await bus.publish([alert], "alerts")


async def test_alert_is_delivered_with_title_text_and_link(bus: EmbeddedBus) -> None:
    line = Line()
    async with running(make_dispatcher(bus, line)):
        await publish(bus, "firing")
        await until(lambda: line.sent["ops"])
        await publish(bus, "resolved")
        await until(lambda: len(line.sent["ops"]) == 2)
    first, second = line.sent["ops"]
    assert first.title == "[FIRING] disk_full: The disk of a is full"
    assert first.text.startswith("FIRING ERROR The disk of a is full (value 95, threshold 90)")
    assert first.link == "https://almenara.example.com/alerts/rules/disk_full/a"
    assert (first.reference, second.reference) == ("", "m1")
    assert (second.status, second.episode) == ("resolved", first.episode)


async def test_deliveries_and_receivers_are_on_the_bus(bus: EmbeddedBus) -> None:
    line = Line()
    async with running(make_dispatcher(bus, line)):
        await publish(bus, "firing")
        await until(lambda: line.sent["ops"])
        await until_logged(bus, "almenara.notification.delivered")
    (event,) = await signals_of(bus, "almenara.notification.")
    assert isinstance(event, Event)
    assert (event.type, event.subject) == ("almenara.notification.delivered", "ops")
    assert b'"disk_full/a"' in bytes(event.data)
    resources = await signals_of(bus, "almenara.receiver")
    statuses = [r.status for r in resources if isinstance(r, Resource)]
    assert (statuses[0], statuses[-1]) == ("idle", "ready")


async def test_restart_repeats_nothing_and_loses_nothing(bus: EmbeddedBus) -> None:
    line = Line()
    async with running(make_dispatcher(bus, line)):
        await publish(bus, "firing")
        await until(lambda: line.sent["ops"])
        await until_logged(bus, "almenara.notification.delivered")
    await publish(bus, "firing", "b")
    async with running(make_dispatcher(bus, line)):
        await until(lambda: len(line.sent["ops"]) == 2)
        await until_logged(bus, "almenara.notification.delivered", 2)
    second = line.sent["ops"][1]
    assert sorted(alert.fingerprint for alert in second.alerts) == ["a", "b"]
    assert second.reference == "m1"
    async with running(make_dispatcher(bus, line)):
        ends = [make_alert_resource("resolved", name, time=now()) for name in ("a", "b")]
        await bus.publish(ends, "alerts")
        await until(lambda: len(line.sent["ops"]) == 3)
    assert line.sent["ops"][2].status == "resolved"


async def test_first_start_notifies_of_alerts_that_are_open(bus: EmbeddedBus) -> None:
    line = Line()
    alerts = [make_alert_resource("firing"), make_alert_resource("resolved", "b")]
    async with running(make_dispatcher(bus, line, open_alerts=alerts)):
        await until(lambda: line.sent["ops"])
    assert [alert.fingerprint for alert in line.sent["ops"][0].alerts] == ["a"]


async def test_failed_delivery_is_retried_after_what_the_receiver_names(bus: EmbeddedBus) -> None:
    line = Line()
    line.failures["ops"] = [DeliveryError("status 429", retry_after=2.5)]
    async with running(make_dispatcher(bus, line)):
        started = time.monotonic()
        await publish(bus, "firing")
        await until(lambda: line.sent["ops"])
        # A lower bound: a slow machine can only make it later.
        assert time.monotonic() - started >= 2.5
        await until_logged(bus, "almenara.notification.delivered")
    events = [s.type for s in await signals_of(bus, "almenara.") if isinstance(s, Event)]
    assert events == ["almenara.receiver.failing", "almenara.receiver.recovered",
                      "almenara.notification.delivered"]  # fmt: skip
    resources = await signals_of(bus, "almenara.receiver")
    failing = [r for r in resources if isinstance(r, Resource) and r.status == "failing"]
    assert failing[0].state["error"] == "status 429"


async def test_refused_notification_goes_to_the_fallback(bus: EmbeddedBus) -> None:
    line = Line()
    line.failures["ops"] = [DeliveryRefusedError("status 400: too long")]
    async with running(make_dispatcher(bus, line, names=("ops", "mail"), fallback="mail")):
        await publish(bus, "firing")
        await until(lambda: line.sent["mail"])
    assert line.attempts["ops"] == 1
    assert line.sent["mail"][0].text.startswith("Receiver ops has refused this notification.\n")
    await until_logged(bus, "almenara.notification.refused")


async def test_fallback_takes_over_from_a_failing_receiver(bus: EmbeddedBus) -> None:
    line = Line()
    line.failures["ops"] = [DeliveryError("unreachable")] * 50
    dispatcher = make_dispatcher(
        bus, line, names=("ops", "mail"), fallback="mail", fallback_after=0.3
    )
    async with running(dispatcher):
        await publish(bus, "firing")
        await until(lambda: line.sent["mail"])
    assert "Receiver ops has been failing since" in line.sent["mail"][0].text
    assert "unreachable" in line.sent["mail"][0].text


async def test_fallback_that_becomes_due_during_a_slow_commit_takes_over(
    bus: EmbeddedBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Line()
    line.failures["ops"] = [DeliveryError("unreachable")] * 50
    dispatcher = make_dispatcher(
        bus, line, names=("ops", "mail"), fallback="mail", fallback_after=0.3,
        route={"group_interval": 3600.0},
    )  # fmt: skip
    publish_really = bus.publish

    async def publish_slowly(batch: Any, origin: str, changes: Any = ()) -> None:
        await publish_really(batch, origin, changes)
        if any(getattr(signal, "type", "") == "almenara.receiver.failing" for signal in batch):
            # Longer than the rest of the time until the fallback.
            await asyncio.sleep(0.5)

    monkeypatch.setattr(bus, "publish", publish_slowly)
    async with running(dispatcher):
        await publish(bus, "firing")
        await until(lambda: line.sent["mail"], seconds=40)


async def test_notifier_that_hangs_is_cancelled(bus: EmbeddedBus) -> None:
    line = Line()
    line.failures["ops"] = [lambda: asyncio.sleep(1000)]
    async with running(make_dispatcher(bus, line, timeout=0.2)):
        await publish(bus, "firing")
        await until_logged(bus, "almenara.notification.delivered")
    resources = await signals_of(bus, "almenara.receiver")
    errors = {r.state["error"] for r in resources if isinstance(r, Resource)}
    assert "no answer within 0.2 s" in errors


async def test_notifier_that_blocks_blocks_nothing_else(bus: EmbeddedBus) -> None:
    line = Line()
    is_released = threading.Event()

    async def block() -> None:
        end = time.monotonic() + 10
        while not is_released.is_set() and time.monotonic() < end:
            time.sleep(0.01)

    line.failures["ops"] = [block]
    async with running(make_dispatcher(bus, line)):
        await publish(bus, "firing")
        await until(lambda: line.attempts["ops"])
        assert not line.sent["ops"]
        is_released.set()
        await until(lambda: line.sent["ops"])


async def test_storm_is_a_digest(bus: EmbeddedBus) -> None:
    line = Line()
    dispatcher = make_dispatcher(bus, line, route={"group_by": ["..."]}, rate_limit=60, burst=3)
    async with running(dispatcher):
        events = [make_alert_resource("firing", f"n{n}", time=now()) for n in range(40)]
        await bus.publish(events, "alerts")
        await until(lambda: line.sent["ops"] and line.sent["ops"][-1].group == "digest")
        await until(lambda: not dispatcher.waiting("ops"))
    *single, digest = line.sent["ops"]
    assert len(single) == 3
    assert digest.title == "[DIGEST] 37 groups: 37 firing"
    assert "… and 22 more groups" in digest.text
    assert (digest.open_count, len(digest.alerts), digest.omitted) == (37, 20, 17)


async def test_receiver_that_tracks_groups_gets_no_digest(bus: EmbeddedBus) -> None:
    line = Line()
    dispatcher = make_dispatcher(
        bus, line, route={"group_by": ["..."]}, rate_limit=6000, burst=1,
        capabilities=Capabilities(tracks_groups=True),
    )  # fmt: skip
    async with running(dispatcher):
        events = [make_alert_resource("firing", f"n{n}", time=now()) for n in range(20)]
        await bus.publish(events, "alerts")
        await until(lambda: len(line.sent["ops"]) == 20)
    assert len({notification.group for notification in line.sent["ops"]}) == 20


async def test_event_of_another_system_notifies_nobody(bus: EmbeddedBus) -> None:
    line = Line()
    async with running(make_dispatcher(bus, line)):
        alert = make_alert_resource("firing", "forged")
        forged = Event(id="1", source="almenara.alerting", type="almenara.alert.firing", time=now(),
                       subject="disk_full/forged", data=alert.state)  # fmt: skip
        await bus.publish([forged], "nats/ALERTS")
        await publish(bus, "firing", "real")
        await until(lambda: line.sent["ops"])
    (notification,) = line.sent["ops"]
    assert [alert.fingerprint for alert in notification.alerts] == ["real"]


async def test_receiver_gets_what_it_may_read_only(bus: EmbeddedBus) -> None:
    line = Line()
    dispatcher = make_dispatcher(bus, line, grants=[{"labels": {"team": "db"}}])
    async with running(dispatcher):
        await publish(bus, "firing", "hidden", own_labels={"team": "web"})
        await publish(bus, "firing", "visible", own_labels={"team": "db"})
        await until(lambda: line.sent["ops"])
    (notification,) = line.sent["ops"]
    assert [alert.fingerprint for alert in notification.alerts] == ["visible"]
    assert (notification.open_count, notification.omitted) == (1, 0)
    assert "hidden" not in notification.text


async def test_receiver_gets_the_end_of_an_alert_that_is_hidden_from_it_meanwhile(
    bus: EmbeddedBus,
) -> None:
    line = Line()
    dispatcher = make_dispatcher(bus, line, grants=[{"namespaces": ["team-a"]}])
    async with running(dispatcher):
        await publish(bus, "firing", namespace="team-a")
        await until(lambda: len(line.sent["ops"]) == 1)
        secret = {"annotations": {"summary": "team-b is down"}, "namespace": "*"}
        await publish(bus, "firing", **secret)
        await publish(bus, "resolved", **secret)
        await until(lambda: len(line.sent["ops"]) == 2)
        first, last = line.sent["ops"]
        assert (last.status, last.episode, last.open_count) == ("resolved", first.episode, 0)
        assert [(alert.status, alert.summary) for alert in last.alerts] == [("resolved", "")]
        assert "team-b" not in last.text + last.title
        await until(lambda: not dispatcher.labels(first.group))


async def test_dispatcher_continues_after_an_error(
    bus: EmbeddedBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Line()
    dispatcher = make_dispatcher(bus, line)
    publish_really, failures = bus.publish, [OSError("the bus fails, for a test")]

    async def fail_once(batch: Any, origin: str, changes: Any = ()) -> None:
        if origin == "almenara/notifications" and bus.last_sequence > 1 and failures:
            raise failures.pop()
        await publish_really(batch, origin, changes)

    monkeypatch.setattr(bus, "publish", fail_once)
    async with running(dispatcher):
        await publish(bus, "firing")
        await until(lambda: line.sent["ops"])
    assert not failures


async def test_test_of_a_receiver_is_delivered_at_once(bus: EmbeddedBus) -> None:
    line = Line()
    dispatcher = make_dispatcher(bus, line, capabilities=Capabilities(tracks_groups=True))
    await dispatcher.send_test("ops")
    assert [(n.status, n.is_test) for n in line.sent["ops"]] == [
        ("firing", True), ("resolved", True),
    ]  # fmt: skip
    assert line.sent["ops"][1].reference == "m1"
    assert line.sent["ops"][0].text.startswith("This is a test of Almenara.")
    with pytest.raises(NotFound, match="no receiver named nope"):
        await dispatcher.send_test("nope")
    line.failures["ops"] = [DeliveryError("status 403")]
    with pytest.raises(DeliveryError, match="status 403"):
        await dispatcher.send_test("ops")


async def test_replica_that_lags_delivers_nothing_again(tmp_path: Path) -> None:
    log, line = MemoryLog(), Line()
    view = LogView(log)
    settings = [StorageSettings(dir=tmp_path / name) for name in ("a", "b")]
    async with (
        SharedBus(settings[0], LogView(log)) as bus,
        SharedBus(settings[1], view) as lagging,
    ):

        async def block() -> None:
            # The other replica has the notification as one that waits.
            await until(lambda: lagging.last_sequence == bus.last_sequence)
            view.limit(len(log.messages))

        line.failures["ops"].append(block)
        async with running(make_dispatcher(bus, line)):
            await publish(bus, "firing", "a")
            await until_logged(bus, "almenara.notification.delivered")
        count = len(log.messages)
        async with running(make_dispatcher(lagging, line)):
            await until(lambda: len(log.messages) > count)
            view.limit(None)
            await publish(bus, "firing", "b")
            await until(lambda: len(line.sent["ops"]) == 2)
    alerts = [[alert.fingerprint for alert in sent.alerts] for sent in line.sent["ops"]]
    # Both are of one group, and the first notification is not repeated for the first alert.
    assert alerts == [["a"], ["a", "b"]]


async def test_lease_lost_while_a_publication_fails_ends_it(bus: EmbeddedBus) -> None:
    class FailingPublisher:
        has_lease = True

        async def publish(self, *arguments: Any) -> None:
            if self.has_lease:
                await bus.publish(*arguments)
                return
            processing = asyncio.current_task()
            assert processing is not None
            # After the task group has started to cancel the others because of the error.
            processing.add_done_callback(lambda _: task.cancel())
            raise FencedError(OWNER)

    publisher, dispatcher = FailingPublisher(), make_dispatcher(bus, Line())
    dispatcher.publisher = publisher
    task = asyncio.create_task(dispatcher.run())
    await until_logged(bus, "almenara.receiver")
    publisher.has_lease = False
    await publish(bus, "firing")
    await asyncio.wait([task], timeout=10)
    assert task.cancelled()
