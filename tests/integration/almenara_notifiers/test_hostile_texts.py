"""Hostile texts at every kind of receiver, as they arrive at the wire."""

import html
import os
import re
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Any

import pytest

from almenara.alerting.notifications.content import compile_content, render
from almenara.config import ReceiverSettings, decode_settings
from almenara.hookspecs import Notification
from almenara_notifiers import KINDS
from almenara_notifiers.apprise_process import send
from support.notification_receivers import HttpReceiver, Request, Slack, SmtpReceiver, accept
from support.notifications import make_alert, make_notification

pytestmark = pytest.mark.anyio
TEXTS = {
    "mention": "<!channel> <!here> <@U123> <!subteam^S1> @everyone @here <at>all</at>",
    "link": "<https://evil.example|click> [click](https://evil.example) https://evil.example",
    "picture": "![x](https://evil.example/x.png) <img src=x onerror=alert(1)>",
    "script": "<script>alert(1)</script> javascript:alert(1) \"'><svg onload=alert(1)>",
    "markdown": "*bold* _it_ ~no~ `code` ```block``` # head\n> quote\n- item | a | b |",
    "header": "a\r\nBcc: evil@example.com\r\n\r\nbody\r\n.\r\nQUIT",
    "encoded": "=?utf-8?q?a=0D=0ABcc=3A_evil=40example=2Ecom?=",
    "template": "{{ 7 * 7 }} ${7*7} %(x)s {% include 'x' %}",
    "control": "a\x00b\x1b[31mred\x07\u202egnp.exe\u2028\u2029\ufeff",
    "json": '"}],"x":[{"a":"\\',
    "long": "x" * 50_000,
}  # fmt: skip
WIDE = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}
FRAMES: dict[str, Callable[[str], str]] = {
    "alone": str,
    "in a line": lambda text: f"before {text} after",
    "in lines": lambda text: f"\r\n\r\n{text}\r\n",
    "repeated": lambda text: text * 3,
    "split": lambda text: f"{text[:2]}\x00\u200b{text[2:]}",
    "escaped": html.escape,
    "percent": urllib.parse.quote,
    "wide": lambda text: text.translate(WIDE),
    "quoted": lambda text: f"`\"'{text}'\"`",
}
"""What a text is put into: each might pass a check that the text alone does not."""
TEXT_KEYS = {"labels", "annotations", "commonLabels", "groupLabels", "commonAnnotations",
             "common_labels", "group_labels", "alerts"}  # fmt: skip
"""Where the names in a body are those of labels, or depend on which texts there are."""


PER_TEXT = int(os.environ.get("ALMENARA_HOSTILE_FRAMES", "3"))
"""Frames of each text: others for the next one, so that every frame occurs. 9 are all."""


def generate() -> Iterator[str]:
    """Every text in several frames; the long one alone, because it takes long."""
    frames = list(FRAMES.values())
    for number, (name, text) in enumerate(TEXTS.items()):
        turned = frames[number % len(frames) :] + frames[: number % len(frames)]
        for put in turned[:PER_TEXT] if name != "long" else (str,):
            yield put(text)


def shape_of(value: Any) -> Any:
    """The names and types in a body, without its texts: no text may change it."""
    if isinstance(value, Mapping):
        return {
            name: "texts" if name in TEXT_KEYS else shape_of(each) for name, each in value.items()
        }
    if isinstance(value, list):
        shapes = [shape_of(each) for each in value]
        return [shape for place, shape in enumerate(shapes) if shape not in shapes[:place]]
    return type(value).__name__


def hostile(text: str) -> Notification:
    """A notification with a text in every place, rendered as for a receiver without templates."""
    alert = make_alert(
        rule="rule", summary=" ".join(text.split()), description=text, by=text, assignee=text,
        labels={"name": text, text[:40]: text}, cause=text,
        value=text[:100], threshold=text[:100], resource=("kind", text[:200], text[:200]),
    )  # fmt: skip
    notification = make_notification(
        alerts=(alert,),
        group_labels={"rule": "rule", "name": text[:500]},
        common_labels={"a": text},
    )
    return render(notification, compile_content(ReceiverSettings(name="x", kind=""), "x"))


def check_slack(request: Request) -> None:
    body = request.json
    assert (body["parse"], body["link_names"], body["mrkdwn"]) == ("none", False, False)
    assert not set(body["text"]) & set("<>")
    (attachment,) = body["attachments"]
    assert not set(attachment["fallback"]) & set("<>")
    for block in attachment["blocks"]:
        if block["type"] == "actions":
            labels = {button["text"]["text"] for button in block["elements"]}
            assert labels == {"Acknowledge", "Silence 1 h"}
            continue
        for text in (block.get("text"), *block.get("elements", ())):
            if text is not None and text["type"] != "plain_text":
                # The only markup is the link of Almenara.
                assert text["text"] == f"<{make_notification().link}|Open in Almenara>"


def check_teams(request: Request) -> None:
    (attachment,) = request.json["attachments"]
    for part in attachment["content"]["body"]:
        # Text runs are shown as they are; a TextBlock would read Markdown.
        assert part["type"] == "RichTextBlock"
        assert {run["type"] for run in part["inlines"]} == {"TextRun"}
    assert [action["url"] for action in attachment["content"]["actions"]] == [
        make_notification().link
    ]
    assert len(request.body) < 28_000


def check_ntfy(request: Request) -> None:
    body = request.json
    assert body["topic"] == "alerts"
    assert not body.get("markdown", False)
    assert "actions" not in body
    assert "attach" not in body


def check_webhook(request: Request) -> None:
    body = request.json
    assert (body["version"], body["status"], body["receiver"]) == ("4", "firing", "ops")
    assert body["externalURL"] == body["alerts"][0]["generatorURL"] == make_notification().link
    assert request.headers["idempotency-key"] == make_notification().key


def check_cloudevent(request: Request) -> None:
    body = request.json
    assert (body["type"], body["id"]) == ("almenara.notification.firing", make_notification().key)
    assert body["data"]["link"] == make_notification().link


def check_pagerduty(request: Request) -> None:
    body = request.json
    link = make_notification().link
    assert (body["routing_key"], body["event_action"], body["dedup_key"]) == (
        "k",
        "trigger",
        "g1-7",
    )
    assert (body["client_url"], [each["href"] for each in body["links"]]) == (link, [link])
    assert len(body["payload"]["summary"]) <= 1_024


def check_alertmanager(request: Request) -> None:
    (alert,) = request.json
    assert alert["generatorURL"] == make_notification().link
    assert alert["labels"]["alertname"] == "rule"
    for name, text in alert["labels"].items():
        assert re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", name)
        assert text


def check_apprise(request: Request) -> None:
    assert set(request.json) >= {"title", "message", "type"}
    assert request.json["type"] == "failure"


@dataclass(frozen=True)
class Case:
    """A kind of receiver: its settings, its answers, and what every request must be."""

    kind: str
    settings: Mapping[str, Any]
    check: Callable[[Request], None]
    answer: Callable[[], Any] = lambda: accept

    def create(self, url: str) -> Any:
        (definition,) = [each for each in KINDS if each.name == self.kind]
        tree = {"url": url, **self.settings}
        return definition.create(decode_settings(definition.settings, tree, place="settings"))


CASES = [
    Case("slack", {"token": "t", "channel": "c"}, check_slack, Slack),
    Case("slack", {"token": "t", "channel": "c", "signing_secret": "s"}, check_slack, Slack),
    Case("slack_webhook", {}, check_slack),
    Case("teams", {}, check_teams),
    Case("ntfy", {"topic": "alerts"}, check_ntfy),
    Case("webhook", {}, check_webhook),
    Case("webhook", {"format": "cloudevents"}, check_cloudevent),
    Case("pagerduty", {"routing_key": "k"}, check_pagerduty),
    Case("alertmanager", {}, check_alertmanager),
]


def test_every_kind_has_a_case() -> None:
    assert {*(case.kind for case in CASES), "email", "apprise"} == {kind.name for kind in KINDS}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind} {case.check.__name__}")
async def test_no_text_becomes_markup(case: Case) -> None:
    texts = list(generate())
    with HttpReceiver(case.answer()) as receiver:
        notifier = case.create(receiver.url)
        for text in ("plain", *texts):
            await notifier.notify(hostile(text))
        plain, *requests = receiver.requests
    assert len(requests) == len(texts)
    for request in requests:
        case.check(request)
        assert shape_of(request.json) == shape_of(plain.json)
        assert request.headers.keys() == plain.headers.keys()
        assert request.path == plain.path
    print(f"{case.kind}: {len(requests)} messages")


async def test_no_text_becomes_a_header_or_markup_of_mail() -> None:
    (definition,) = [each for each in KINDS if each.name == "email"]
    texts = list(generate())
    with SmtpReceiver() as server:
        tree = {"host": "127.0.0.1", "port": server.port, "security": "none",
                "from": "almenara@example.com", "to": ["ops@example.com"]}  # fmt: skip
        settings = decode_settings(definition.settings, tree, place="settings")
        notifier = definition.create(settings)
        for text in ("plain", *texts):
            await notifier.notify(hostile(text))
        plain, *messages = server.mailbox.messages
        assert server.mailbox.recipients == [["ops@example.com"]] * (len(texts) + 1)
    assert len(messages) == len(texts)
    for message in messages:
        assert message.keys() == plain.keys()
        assert str(message["to"]) == "ops@example.com"
        assert [part.get_content_type() for part in message.walk()] == [
            part.get_content_type() for part in plain.walk()
        ]
        check_page(message.get_body(("html",)))
    print(f"email: {len(messages)} messages")


def check_page(page: Any) -> None:
    """The page of a mail has the tags of Almenara and the one link, and no other."""
    assert isinstance(page, EmailMessage)
    tags = re.findall(r"<\s*/?\s*([a-zA-Z!]\w*)", page.get_content())
    assert set(tags) <= {"!doctype", "html", "body", "div", "h2", "p", "br", "a"}, tags
    assert tags.count("a") == 2


def test_no_text_becomes_markup_of_a_service_of_apprise() -> None:
    pytest.importorskip("apprise")
    texts = list(generate())
    with HttpReceiver() as receiver:
        url = receiver.url.replace("http", "json", 1)
        for text in texts:
            notification = hostile(text)
            message = {"title": notification.title, "body": notification.text, "type": "failure"}
            assert send(message, [url]) == (True, "")
        requests = receiver.requests
    assert len(requests) == len(texts)
    for request in requests:
        check_apprise(request)
        assert shape_of(request.json) == shape_of(requests[0].json)
    print(f"apprise: {len(requests)} messages")
