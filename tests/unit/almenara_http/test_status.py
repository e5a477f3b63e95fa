"""Thresholds, hysteresis and maintenance windows: which outcomes change the status of a check."""

from datetime import UTC, datetime

import msgspec
import pytest

from almenara.clock import clock_at
from almenara.signals import Event, Resource, Sample
from almenara.units import SECOND
from almenara_http import source
from almenara_http.certificates import Validity
from almenara_http.client import Outcome
from almenara_http.maintenance import MaintenanceWindow
from almenara_http.settings import CheckSettings
from almenara_http.source import CheckState, evaluate

FAILED = Outcome(failure="status 503")


def answered(latency: float = 0.1) -> Outcome:
    return Outcome(failure=None, latency=latency, code=200, version="HTTP/2")


def check(**settings: object) -> CheckSettings:
    return CheckSettings(name="shop", url="http://127.0.0.1:1/", **settings)  # type: ignore[arg-type]


def statuses(shop: CheckSettings, outcomes: list[Outcome]) -> tuple[list[str], list[str]]:
    """The status after each outcome, and the types of all events."""
    state, types, seen = CheckState(), [], []
    for outcome in outcomes:
        resource, *signals = evaluate(shop, state, outcome)
        seen.append(str(resource.status))
        types += [event.type.rpartition(".")[2] for event in signals if isinstance(event, Event)]
    return seen, types


def test_alternating_latency_makes_no_events() -> None:
    outcomes = [answered(latency) for latency in (0.1, 2.1, 1.9) * 5]
    assert statuses(check(), outcomes) == (["up"] * 15, [])


def test_slow_check_is_up_again_only_below_its_lower_limit() -> None:
    latencies = [0.1, 2.1, 2.1, 2.1, 1.9, 1.9, 1.9, 1.9, 1.5, 1.5, 1.5]
    seen, types = statuses(check(), [answered(latency) for latency in latencies])
    assert seen == ["up"] * 3 + ["slow"] * 7 + ["up"]
    assert types == ["slow", "up"]
    seen, _ = statuses(check(fast_below=1.0), [answered(latency) for latency in latencies])
    assert seen[-1] == "slow"


def test_check_is_up_after_success_threshold() -> None:
    outcomes = [answered(), *[FAILED] * 3, answered(), FAILED, *[answered()] * 3]
    seen, types = statuses(check(failure_threshold=3, success_threshold=3), outcomes)
    assert seen == ["up"] * 3 + ["down"] * 5 + ["up"]
    assert types == ["down", "up"]


def test_unfinished_recovery_is_explained() -> None:
    shop, state = check(success_threshold=3), CheckState()
    evaluate(shop, state, FAILED)
    resource = evaluate(shop, state, answered())[0]
    assert resource.state["reason"].startswith("1 of 3 expected responses in a row")


def microseconds(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000


def test_maintenance_is_neither_up_nor_down(monkeypatch: pytest.MonkeyPatch) -> None:
    window = MaintenanceWindow(start="02:00", end="04:00", zone="Europe/Madrid")
    shop, state = check(maintenance=[window]), CheckState()
    history = []
    for time, outcome in (
        ("00:30", answered()), ("01:00", FAILED), ("02:59", FAILED), ("03:00", FAILED),
        ("03:01", FAILED), ("03:02", answered()),
    ):  # fmt: skip
        monkeypatch.setattr(source, "now", lambda time=time: microseconds(f"2026-01-10T{time}"))
        resource, *signals = evaluate(shop, state, outcome)
        assert isinstance(resource, Resource)
        up = [signal.value for signal in signals
              if isinstance(signal, Sample) and signal.metric == "up"]  # fmt: skip
        events = [signal.type for signal in signals if isinstance(signal, Event)]
        history.append((resource.status, up, [name.rpartition(".")[2] for name in events]))
        if time == "01:00":
            assert resource.state["reason"] == "maintenance until 2026-01-10 03:00 UTC; status 503"
    assert history == [
        ("up", [1.0], []),
        ("maintenance", [], ["maintenance"]),
        ("maintenance", [], []),
        ("maintenance", [], []),
        ("down", [0.0], ["down"]),
        ("up", [1.0], ["up"]),
    ]


@pytest.mark.parametrize(
    ("time", "end"),
    [
        ("2026-03-28T23:59", None),
        ("2026-03-29T00:30", "2026-03-29T01:30"),
        ("2026-03-29T01:30", None),
        ("2026-03-30T00:30", None),
    ],
)
def test_cron_window_ends_after_its_duration(time: str, end: str | None) -> None:
    window = MaintenanceWindow(cron="0 1 * * sun", duration=5_400, zone="Europe/Madrid")
    expected = None if end is None else microseconds(end)
    assert window.active_until(microseconds(time)) == expected


@pytest.mark.parametrize(
    "settings",
    [{}, {"start": "02:00"}, {"cron": "0 3 * * *"}, {"duration": 60.0},
     {"start": "02:00", "end": "03:00", "cron": "0 3 * * *", "duration": 60.0},
     {"cron": "0 3 * * *", "duration": 60.0, "days": ["mon"]}],
)  # fmt: skip
def test_incomplete_window_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"start and end .* or cron and duration"):
        MaintenanceWindow(**settings)  # type: ignore[arg-type]


def test_certificate_is_about_to_expire_until_a_response_has_another() -> None:
    shop, state = check(), CheckState()
    day = Validity(issued=0.0, expires=86_400.0)
    renewed = Validity(issued=70_000.0, expires=156_400.0)

    def fields(outcome: Outcome, seconds: int) -> tuple[object, object]:
        with clock_at(seconds * SECOND):
            resource, *_ = evaluate(shop, state, outcome)
        return resource.state.get("expires"), resource.state.get("certificate")

    secured = msgspec.structs.replace(answered(), validity=day)
    assert fields(secured, 64_799) == (86_400 * SECOND, None)
    assert fields(secured, 64_800) == (86_400 * SECOND, "expires soon")
    # A check that fails before the handshake knows of no other certificate.
    assert fields(FAILED, 64_801) == (86_400 * SECOND, "expires soon")
    another = msgspec.structs.replace(answered(), validity=renewed)
    assert fields(another, 70_001) == (156_400 * SECOND, None)
    # Without TLS.
    assert fields(answered(), 70_002) == (None, None)
