"""Notifiers over HTTP, at the wire."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from almenara.config import ConfigError, decode_settings
from almenara.hookspecs import DeliveryError, DeliveryRefusedError, Notifier
from almenara.signals import Severity, now
from almenara_notifiers import KINDS
from almenara_notifiers.client import parse_retry_after
from support.certificates import issue_self_signed
from support.notification_receivers import Answer, HttpReceiver, Request, Slack
from support.notifications import HOSTILE, START, make_alert, make_notification, resolved

pytestmark = pytest.mark.anyio
BY_NAME = {kind.name: kind for kind in KINDS}
SECRET = "s3cret-t0ken"
HTTP_KINDS: dict[str, Callable[[str], dict[str, Any]]] = {
    "slack": lambda url: {"url": url, "token": SECRET, "channel": "C0DE"},
    "slack_webhook": lambda url: {"url": f"{url}/services/{SECRET}"},
    "webhook": lambda url: {"url": f"{url}/hook/{SECRET}", "bearer": SECRET},
    "pagerduty": lambda url: {"url": url, "routing_key": SECRET},
    "teams": lambda url: {"url": f"{url}/workflows?sig={SECRET}"},
    "ntfy": lambda url: {"url": url, "topic": "alerts", "token": SECRET},
    "alertmanager": lambda url: {"url": url, "bearer": SECRET},
}


def create(kind: str, **settings: Any) -> Notifier:
    decoded = decode_settings(BY_NAME[kind].settings, settings, place="settings")
    return BY_NAME[kind].create(decoded)


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    with HttpReceiver() as running:
        yield running


def notifier_for(kind: str, receiver: HttpReceiver, **more: Any) -> Notifier:
    return create(kind, **HTTP_KINDS[kind](receiver.url), **more)


# -- every kind


@pytest.mark.parametrize("kind", HTTP_KINDS)
async def test_server_error_is_temporary_and_names_its_wait(
    kind: str, receiver: HttpReceiver
) -> None:
    receiver.answers = [(503, {"retry-after": "17"}, b"busy")]
    with pytest.raises(DeliveryError, match="status 503: busy") as error:
        await notifier_for(kind, receiver).notify(make_notification())
    assert not isinstance(error.value, DeliveryRefusedError)
    assert error.value.retry_after == 17


@pytest.mark.parametrize("kind", HTTP_KINDS)
async def test_refused_content_is_final(kind: str, receiver: HttpReceiver) -> None:
    receiver.answers = [(400, {}, b"too long")]
    with pytest.raises(DeliveryRefusedError, match="status 400: too long"):
        await notifier_for(kind, receiver).notify(make_notification())


@pytest.mark.parametrize("kind", HTTP_KINDS)
async def test_wrong_token_can_be_replaced(kind: str, receiver: HttpReceiver) -> None:
    receiver.answers = [(401, {}, b"")]
    with pytest.raises(DeliveryError, match="status 401; check the token") as error:
        await notifier_for(kind, receiver).notify(make_notification())
    assert not isinstance(error.value, DeliveryRefusedError)


@pytest.mark.parametrize("kind", HTTP_KINDS)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect_is_not_followed(kind: str, status: int, receiver: HttpReceiver) -> None:
    with HttpReceiver() as inner:
        receiver.answers = [(status, {"location": f"{inner.url}/latest/meta-data"}, b"")]
        with pytest.raises(DeliveryError, match="redirects are not followed"):
            await notifier_for(kind, receiver).notify(make_notification())
        assert inner.requests == []


@pytest.mark.parametrize("kind", HTTP_KINDS)
async def test_closed_connection_is_an_error_without_secrets(
    kind: str, receiver: HttpReceiver
) -> None:
    receiver.answers = [(0, {}, b"")]
    with pytest.raises(DeliveryError, match="disconnected") as error:
        await notifier_for(kind, receiver).notify(make_notification())
    assert SECRET not in str(error.value)


@pytest.mark.parametrize("kind", HTTP_KINDS)
async def test_error_that_repeats_the_request_shows_no_secret(
    kind: str, receiver: HttpReceiver
) -> None:
    def repeat(request: Request) -> Answer:
        url = f"{receiver.url}{request.path}"
        return 500, {}, f"{request.path} {url} {request.headers} {request.body!r}".encode()

    receiver.answer = repeat
    with pytest.raises(DeliveryError) as error:
        await notifier_for(kind, receiver).notify(make_notification())
    assert SECRET not in str(error.value)


@pytest.mark.parametrize("kind", HTTP_KINDS)
async def test_unreachable_server_is_an_error_without_secrets(kind: str) -> None:
    notifier = create(kind, **HTTP_KINDS[kind]("http://127.0.0.1:1"))
    with pytest.raises(DeliveryError) as error:
        await notifier.notify(make_notification())
    assert SECRET not in f"{error.value!r} {error.value} {notifier!r}"
    assert error.value.__cause__ is None


@pytest.mark.parametrize("kind", HTTP_KINDS)
async def test_endless_response_is_read_to_a_limit(kind: str, receiver: HttpReceiver) -> None:
    receiver.answer = lambda request: (500, {}, b"x" * 5_000_000)
    with pytest.raises(DeliveryError) as error:
        await notifier_for(kind, receiver).notify(make_notification())
    assert len(str(error.value)) < 400


async def test_certificate_is_checked_unless_it_is_trusted(tmp_path: Path) -> None:
    context = issue_self_signed(tmp_path, days=2)
    with HttpReceiver(tls=context) as receiver:
        with pytest.raises(DeliveryError, match="certificate"):
            await create("webhook", url=receiver.url).notify(make_notification())
        assert receiver.requests == []
        trusting = create("webhook", url=receiver.url, ca=str(tmp_path / "cert.pem"))
        await trusting.notify(make_notification())
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("12", 12.0), (" 3 ", 3.0), (None, None), ("soon", None), ("-4", None), ("٣", None),
     ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0), ("9" * 400, 999999999.0)],
)  # fmt: skip
def test_retry_after_is_parsed(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value) == seconds


def test_retry_after_may_be_a_date() -> None:
    seconds = parse_retry_after(formatdate(now() / 1_000_000 + 600, usegmt=True))
    assert seconds is not None
    assert 500 < seconds <= 600


# -- Slack


async def test_slack_edits_one_message_and_replies_in_its_thread(receiver: HttpReceiver) -> None:
    receiver.answer = slack = Slack()
    notifier = notifier_for("slack", receiver)
    first = make_notification()
    delivery = await notifier.notify(first)
    assert delivery.reference == "C0DE:1.000"
    end = resolved(first, reference=delivery.reference)
    assert (await notifier.notify(end)).reference == delivery.reference
    assert [request.path for request in receiver.requests] == [
        "/chat.postMessage", "/chat.update", "/chat.postMessage",
    ]  # fmt: skip
    (message,) = slack.messages.values()
    assert message["text"] == "[RESOLVED] disk_full"
    assert message["attachments"][0]["color"] == "#3fa45b"
    (reply,) = slack.replies
    assert (reply["thread_ts"], reply["reply_broadcast"]) == ("1.000", False)
    assert receiver.requests[0].headers["authorization"] == f"Bearer {SECRET}"


async def test_slack_edits_without_a_reply_where_no_one_is_to_be_alerted(
    receiver: HttpReceiver,
) -> None:
    receiver.answer = slack = Slack()
    notifier = notifier_for("slack", receiver)
    reference = (await notifier.notify(make_notification())).reference
    acknowledged = make_notification(
        reference=reference, is_quiet=True, title="[FIRING] acknowledged"
    )
    await notifier.notify(acknowledged)
    assert slack.messages["1.000"]["text"] == "[FIRING] acknowledged"
    assert slack.replies == []


async def test_slack_replaces_a_message_that_was_deleted(
    receiver: HttpReceiver,
) -> None:
    receiver.answer = slack = Slack()
    notifier = notifier_for("slack", receiver)
    delivery = await notifier.notify(make_notification(reference="C0DE:0.1"))
    assert delivery.reference == "C0DE:1.000"
    assert slack.replies == []


async def test_slack_shows_hostile_text_as_text(receiver: HttpReceiver) -> None:
    receiver.answer = slack = Slack()
    notification = make_notification(title=HOSTILE, text=HOSTILE)
    await notifier_for("slack", receiver).notify(notification)
    message = slack.messages["1.000"]
    assert "<" not in message["text"]
    assert message["text"].startswith("&lt;!channel&gt; &lt;@U123&gt;")
    assert (message["parse"], message["link_names"], message["mrkdwn"]) == ("none", False, False)
    section, context = message["attachments"][0]["blocks"]
    assert (section["text"]["type"], section["text"]["text"]) == ("plain_text", HOSTILE)
    assert context["elements"][0]["text"] == f"<{notification.link}|Open in Almenara>"


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [("invalid_auth", DeliveryError, "check token"),
     ("not_in_channel", DeliveryError, "invite the app to the channel"),
     ("msg_too_long", DeliveryRefusedError, "msg_too_long"),
     ("", DeliveryError, "no JSON")],
)  # fmt: skip
async def test_slack_error_in_an_accepted_response(
    error: str, kind: type[DeliveryError], text: str, receiver: HttpReceiver
) -> None:
    slack = Slack()
    slack.error = error
    receiver.answer = slack if error else lambda request: (200, {}, b"<html>")
    with pytest.raises(kind, match=text) as raised:
        await notifier_for("slack", receiver).notify(make_notification())
    assert type(raised.value) is kind


# -- webhook


async def test_webhook_body_is_version_4_of_alertmanager(receiver: HttpReceiver) -> None:
    notification = resolved(make_notification(omitted=3))
    await notifier_for("webhook", receiver).notify(notification)
    (request,) = receiver.requests
    body = request.json
    assert set(body) == {
        "version", "groupKey", "truncatedAlerts", "status", "receiver", "groupLabels",
        "commonLabels", "commonAnnotations", "externalURL", "alerts",
    }  # fmt: skip
    assert (body["version"], body["status"], body["receiver"]) == ("4", "resolved", "ops")
    assert (body["truncatedAlerts"], body["groupKey"]) == (3, "g1-7")
    (alert,) = body["alerts"]
    assert alert["labels"] == {"alertname": "disk_full", "node": "node-3", "severity": "error"}
    assert alert["annotations"] == {"summary": "The disk is full", "value": "95"}
    assert (alert["startsAt"], alert["endsAt"]) == (
        "2026-01-01T00:00:00.000000Z", "2026-01-01T00:01:00.000000Z",
    )  # fmt: skip
    assert request.headers["idempotency-key"] == "g1/8/ops"
    assert request.headers["authorization"] == f"Bearer {SECRET}"


async def test_webhook_cloudevent(receiver: HttpReceiver) -> None:
    notifier = notifier_for("webhook", receiver, format="cloudevents", headers={"X-Key": "k"})
    await notifier.notify(make_notification(title=HOSTILE))
    (request,) = receiver.requests
    assert request.headers["content-type"] == "application/cloudevents+json"
    assert request.headers["x-key"] == "k"
    event = request.json
    assert (event["specversion"], event["id"], event["type"], event["subject"]) == (
        "1.0", "g1/7/ops", "almenara.notification.firing", "g1",
    )  # fmt: skip
    assert event["data"]["title"] == HOSTILE
    assert event["data"]["alerts"][0]["fingerprint"] == "f1"


@pytest.mark.parametrize(
    ("secret", "key"),
    [("plain secret", b"plain secret"),
     ("whsec_" + base64.b64encode(b"\x00\x01key").decode(), b"\x00\x01key")],
)  # fmt: skip
async def test_webhook_signature_is_verified_by_its_receiver(
    secret: str, key: bytes, receiver: HttpReceiver
) -> None:
    await notifier_for("webhook", receiver, secret=secret).notify(make_notification())
    (request,) = receiver.requests
    headers = request.headers
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + request.body
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert abs(int(headers["webhook-timestamp"]) - now() / 1e6) < 3600


# -- PagerDuty


async def test_pagerduty_opens_acknowledges_and_resolves_one_incident(
    receiver: HttpReceiver,
) -> None:
    notifier = notifier_for("pagerduty", receiver)
    first = make_notification(severity=Severity.FATAL)
    await notifier.notify(first)
    alert = make_alert(status="acknowledged", by="ann")
    await notifier.notify(make_notification(alerts=(alert,), is_quiet=True))
    await notifier.notify(resolved(first))
    events = [request.json for request in receiver.requests]
    assert [event["event_action"] for event in events] == ["trigger", "acknowledge", "resolve"]
    assert {event["dedup_key"] for event in events} == {"g1-7"}
    assert events[0]["payload"]["severity"] == "critical"
    assert events[0]["payload"]["timestamp"] == "2026-01-01T00:00:00.000000Z"
    assert events[0]["links"][0]["href"] == first.link


async def test_pagerduty_does_not_acknowledge_for_one_of_several(receiver: HttpReceiver) -> None:
    alerts = (make_alert(status="acknowledged"), make_alert(fingerprint="f2"))
    await notifier_for("pagerduty", receiver).notify(make_notification(alerts=alerts))
    assert receiver.requests[0].json["event_action"] == "trigger"


# -- Teams


async def test_teams_card_shows_hostile_text_as_text(receiver: HttpReceiver) -> None:
    await notifier_for("teams", receiver).notify(make_notification(title=HOSTILE, text=HOSTILE))
    body = receiver.requests[0].json
    (attachment,) = body["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    card = attachment["content"]
    # A text run is never parsed; a TextBlock would show the Markdown of an alert as a link.
    assert {block["type"] for block in card["body"]} == {"RichTextBlock"}
    assert [run["text"] for block in card["body"] for run in block["inlines"]] == [HOSTILE] * 2
    assert "<at>" not in json.dumps(card)


async def test_teams_card_has_the_size_that_teams_accepts(receiver: HttpReceiver) -> None:
    text = "\n".join("ä" * 200 for _ in range(300))
    await notifier_for("teams", receiver).notify(make_notification(text=text))
    assert len(receiver.requests[0].body) < 28_000


# -- ntfy


async def test_ntfy_message_has_priority_and_link(receiver: HttpReceiver) -> None:
    notifier = notifier_for("ntfy", receiver)
    await notifier.notify(make_notification(severity=Severity.FATAL, title=HOSTILE))
    await notifier.notify(resolved(make_notification()))
    first, second = (request.json for request in receiver.requests)
    assert (first["topic"], first["priority"], first["title"]) == ("alerts", 5, HOSTILE)
    assert (second["priority"], first["markdown"]) == (2, False)
    assert first["click"].startswith("https://almenara.example.com/")


async def test_ntfy_message_stays_a_message(receiver: HttpReceiver) -> None:
    await notifier_for("ntfy", receiver).notify(make_notification(text="ä" * 9_000))
    assert len(receiver.requests[0].json["message"].encode()) <= 3_900


# -- Alertmanager


async def test_alertmanager_gets_alerts_with_an_end(receiver: HttpReceiver) -> None:
    notifier = notifier_for("alertmanager", receiver, expires=3600)
    alert = make_alert(labels={"app.kubernetes.io/name": "x", "1st": "y", "empty": ""})
    await notifier.notify(make_notification(alerts=(alert,), created=START))
    await notifier.notify(resolved(make_notification(alerts=(alert,))))
    assert receiver.requests[0].path == "/api/v2/alerts"
    ((first,), (second,)) = (request.json for request in receiver.requests)
    assert first["labels"] == {
        "alertname": "disk_full", "severity": "error", "fingerprint": "f1",
        "app_kubernetes_io_name": "x", "_1st": "y",
    }  # fmt: skip
    assert second["labels"] == first["labels"]
    assert first["endsAt"] == "2026-01-01T01:00:00.000000Z"
    assert second["endsAt"] == "2026-01-01T00:01:00.000000Z"


async def test_alertmanager_basic_authentication(receiver: HttpReceiver) -> None:
    notifier = create("alertmanager", url=receiver.url, user="ann", password=SECRET)
    await notifier.notify(make_notification())
    encoded = receiver.requests[0].headers["authorization"].removeprefix("Basic ")
    assert base64.b64decode(encoded).decode() == f"ann:{SECRET}"


# -- settings


@pytest.mark.parametrize(
    ("kind", "settings", "reason"),
    [
        ("slack", {"channel": "C"}, "token is missing"),
        ("webhook", {"url": "ftp://x"}, "must start with http:// or https://"),
        ("webhook", {"url": "https://user:pass@x"}, "must not contain a user name or password"),
        ("webhook", {"url": "https://x", "format": "v3"}, "expected one of alertmanager"),
        ("webhook", {"url": "https://x", "headers": {"a b": "c"}}, "is not the name of a header"),
        ("ntfy", {"topic": "a/b"}, "topic"),
        ("pagerduty", {"routing_key": "k", "url": "x"}, "must start with http"),
    ],
)
def test_wrong_settings_are_refused(kind: str, settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        create(kind, **settings)


async def test_file_of_a_secret_that_disappears_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(SECRET)
    notifier = create("pagerduty", routing_key={"file": str(file)}, url="http://127.0.0.1:1")
    file.unlink()
    with pytest.raises(DeliveryError, match="cannot be read"):
        await notifier.notify(make_notification())
