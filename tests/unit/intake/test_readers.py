"""What senders push, read by the parsers of the intake: valid, wrong and hostile."""

import gzip
import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from almenara.bus.codec import normalize
from almenara.config import IntakeSettings, WebhookMapping
from almenara.intake.alerts import read_alerts
from almenara.intake.body import check_nesting, decompress, follow_path
from almenara.intake.cloudevents import BATCH, STRUCTURED, read_events
from almenara.intake.errors import RefusedPushError
from almenara.intake.values import read_severity, read_time
from almenara.intake.webhook import read_webhook
from almenara.signals import Event, Severity

EVENTS = IntakeSettings(kind="cloudevents")
WEBHOOK = IntakeSettings(
    kind="webhook",
    mapping=WebhookMapping(id="a", type="b", subject="a.b", time="time", severity="b"),
)
ALERTS = IntakeSettings(kind="alertmanager")
NOW = 1_700_000_000_000_000

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
names = st.sampled_from(
    ["specversion", "id", "source", "type", "time", "data", "data_base64", "severity", "alerts",
     "labels", "status", "startsAt", "endsAt", "fingerprint", "annotations", "a", "b", "a.b"]
)  # fmt: skip
documents = st.recursive(
    scalars | st.sampled_from(["1.0", "firing", "resolved", "critical", "2026-01-01T00:00:00Z"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=8),
    max_leaves=20,
)
bodies = (
    documents.map(lambda each: json.dumps(each).encode()) | st.binary() | st.text().map(str.encode)
)


@given(bodies, st.sampled_from([STRUCTURED, BATCH, "application/json", "text/plain", ""]))
def test_readers_return_events_that_can_be_stored_or_refuse(body: bytes, content: str) -> None:
    headers = {"content-type": content, "ce-specversion": "1.0", "ce-id": "1", "ce-type": "t",
               "ce-source": "%ff"}  # fmt: skip
    for read in (
        lambda: read_events(body, headers, EVENTS, NOW),
        lambda: read_webhook(body, headers, "hook", WEBHOOK, NOW),
        lambda: read_alerts(body, "grafana", ALERTS, NOW),
    ):
        try:
            events = read()
        except RefusedPushError as error:
            assert error.status in (400, 415)
            continue
        for event in events:
            stored = normalize(event, "intake/it")
            assert isinstance(stored, Event)
            assert stored.origin == "intake/it"


@given(documents, st.integers(1, 12))
def test_nesting_is_refused_exactly_beyond_the_limit(document: Any, limit: int) -> None:
    def depth(value: Any) -> int:
        inner = value.values() if isinstance(value, dict) else value
        return 1 + max(map(depth, inner), default=0) if isinstance(value, dict | list) else 0

    body = json.dumps(document).encode()
    if depth(document) <= limit:
        check_nesting(body, limit)
    else:
        with pytest.raises(RefusedPushError, match="nested deeper"):
            check_nesting(body, limit)


@pytest.mark.parametrize("piece", [b'\\"', b"\\", b'"', b"a"])
def test_a_string_without_an_end_is_refused_in_linear_time(piece: bytes) -> None:
    # Quadratic time would take more than half an hour.
    for count in (1024**2, 1024**2 + 1):
        with pytest.raises(RefusedPushError, match="not JSON, or nested deeper than 64"):
            check_nesting(b"[" * 70 + b'"' + piece * count, 64)


@pytest.mark.parametrize("body", [b"[" * 1_000_000, b'{"a":' * 200_000, b'["' * 500_000])
def test_deep_bodies_are_refused_before_they_are_decoded(body: bytes) -> None:
    headers = {"content-type": BATCH}
    with pytest.raises(RefusedPushError):
        read_events(body, headers, EVENTS, NOW)


@given(st.binary(max_size=200))
def test_decompress_returns_the_body_or_refuses(body: bytes) -> None:
    settings = IntakeSettings(kind="cloudevents", max_decompressed_bytes=100)
    packed = gzip.compress(body)
    if len(body) <= 100:
        assert decompress(packed, "gzip", settings) == body
    else:
        with pytest.raises(RefusedPushError, match="max_decompressed_bytes"):
            decompress(packed, "gzip", settings)
    for wrong in (body, packed[:-1], packed + b"x", packed + packed):
        if len(body) <= 100:
            with pytest.raises(RefusedPushError):
                decompress(wrong, "gzip", settings)
    with pytest.raises(RefusedPushError, match="br"):
        decompress(body, "br", settings)


def test_batch_errors_name_the_event() -> None:
    good = {"specversion": "1.0", "id": "1", "source": "s", "type": "t"}
    bad = {**good, "id": ""}
    body = json.dumps([good, bad]).encode()
    with pytest.raises(RefusedPushError, match=r"\[1\]: the CloudEvent has no id"):
        read_events(body, {"content-type": BATCH}, EVENTS, NOW)


def test_webhook_mapping_reads_every_field() -> None:
    settings = IntakeSettings(
        kind="webhook",
        mapping=WebhookMapping(
            id="header:X-Request-Id", type="kind", type_prefix="ci.", subject="jobs.1.name",
            time="at", severity="level", correlation="run",
        ),
    )  # fmt: skip
    document = {"kind": "done", "jobs": [{}, {"name": "b"}], "at": 1_700_000_000, "level": "Error",
                "run": 7}  # fmt: skip
    body = json.dumps(document).encode()
    (event,) = read_webhook(body, {"x-request-id": "r1"}, "hook", settings, 5)
    assert (event.id, event.type, event.subject) == ("r1", "ci.done", "b")
    assert (event.time, event.severity, event.correlation) == (NOW, Severity.ERROR, "7")
    assert event.problem is None
    with pytest.raises(RefusedPushError, match=r"mapping\.id"):
        read_webhook(body, {}, "hook", settings, 5)


def test_repeated_notifications_have_the_same_ids() -> None:
    alert = {"status": "firing", "labels": {"alertname": "Down", "severity": "critical"},
             "startsAt": "2026-01-01T00:00:00Z", "endsAt": "0001-01-01T00:00:00Z",
             "fingerprint": "f"}  # fmt: skip
    again = {**alert, "endsAt": "2026-01-01T00:05:00Z"}
    resolved = {**again, "status": "resolved"}
    body = json.dumps({"receiver": "r", "alerts": [alert, again, resolved]}).encode()
    first, second, third = read_alerts(body, "alertmanager", ALERTS, NOW)
    assert first.id == second.id != third.id
    assert (first.type, first.severity) == ("alertmanager.alert.firing", Severity.FATAL)
    assert (third.type, third.severity) == ("alertmanager.alert.resolved", Severity.INFO)
    assert first.correlation == third.correlation == "f"
    assert json.loads(bytes(first.data))["receiver"] == "r"


@pytest.mark.parametrize(
    "value",
    ["2023-11-14T22:13:20Z", 1_700_000_000, 1_700_000_000.0, 1_700_000_000_000, NOW, NOW * 1_000],
)
def test_times_are_read_in_every_unit(value: Any) -> None:
    assert read_time(value) == NOW


@pytest.mark.parametrize("value", [None, True, "", "soon", -1, float("nan"), 10**30, [], {}])
def test_times_that_are_none_are_reported(value: Any) -> None:
    assert read_time(value) is None
    assert read_severity(value) is None


@given(documents, st.text(alphabet="ab.01"))
def test_paths_lead_to_a_value_or_to_nothing(document: Any, path: str) -> None:
    follow_path(document, path)
    assert follow_path({"a": [{"b.c": 1}]}, "a.0.b.c") == 1
