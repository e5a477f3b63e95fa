"""Hostile texts at every kind of receiver, as they arrive at the wire."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Any

import pytest

from almenara.alerting.notifications.content import compile_content, render
from almenara.config import ReceiverSettings, decode_settings
from almenara.hookspecs import Notification
from almenara_notifiers import KINDS
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


def texts_of(value: Any) -> list[str]:
    """All texts in a value of JSON."""
    if isinstance(value, Mapping):
        return [text for each in value.values() for text in texts_of(each)]
    if isinstance(value, list):
        return [text for each in value for text in texts_of(each)]
    return [value] if isinstance(value, str) else []


def check_slack(request: Request) -> None:
    body = request.json
    assert (body["parse"], body["link_names"], body["mrkdwn"]) == ("none", False, False)
    assert not set(body["text"]) & set("<>")
    (attachment,) = body["attachments"]
    assert not set(attachment["fallback"]) & set("<>")
    for block in attachment["blocks"]:
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


def check_json(request: Request) -> None:
    """The body is JSON in which a text is a text, wherever it is."""
    assert json.loads(json.dumps(request.json)) == request.json
    assert all(isinstance(name, str) for name in request.headers)


def check_apprise(request: Request) -> None:
    assert set(request.json) >= {"title", "message", "type"}
    assert request.json["type"] == "failure"


@dataclass(frozen=True)
class Case:
    """A kind of receiver: its settings, its answers, and what every request must be."""

    settings: Mapping[str, Any]
    check: Callable[[Request], None]
    answer: Callable[[], Any] = lambda: accept


CASES = {
    "slack": Case({"token": "t", "channel": "c"}, check_slack, Slack),
    "slack_webhook": Case({}, check_slack),
    "teams": Case({}, check_teams),
    "ntfy": Case({"topic": "alerts"}, check_ntfy),
    "webhook": Case({}, check_json),
    "pagerduty": Case({"routing_key": "k"}, check_json),
    "alertmanager": Case({}, check_json),
    "apprise": Case({}, check_apprise),
}


def test_every_kind_has_a_case() -> None:
    assert {*CASES, "email"} == {kind.name for kind in KINDS}


@pytest.mark.parametrize("kind", list(CASES))
async def test_no_text_becomes_markup(kind: str) -> None:
    if kind == "apprise":
        pytest.importorskip("apprise")
    case = CASES[kind]
    (definition,) = [each for each in KINDS if each.name == kind]
    with HttpReceiver(case.answer()) as receiver:
        url = receiver.url
        own: dict[str, Any] = {"url": url}
        if kind == "apprise":
            own = {"urls": [url.replace("http", "json", 1)]}
        settings = decode_settings(definition.settings, {**own, **case.settings}, place="settings")
        notifier = definition.create(settings)
        texts = (
            TEXTS if kind != "apprise" else {name: TEXTS[name] for name in ("mention", "header")}
        )
        for text in texts.values():
            await notifier.notify(hostile(text))
        assert len(receiver.requests) == len(texts)
        for request in receiver.requests:
            case.check(request)
            assert not {"bcc", "x-evil"} & set(request.headers)


@pytest.mark.parametrize("name", list(TEXTS))
async def test_no_text_becomes_a_header_or_markup_of_mail(name: str) -> None:
    (definition,) = [each for each in KINDS if each.name == "email"]
    with SmtpReceiver() as server:
        tree = {"host": "127.0.0.1", "port": server.port, "security": "none",
                "from": "almenara@example.com", "to": ["ops@example.com"]}  # fmt: skip
        settings = decode_settings(definition.settings, tree, place="settings")
        await definition.create(settings).notify(hostile(TEXTS[name]))
        (message,) = server.mailbox.messages
        assert server.mailbox.recipients == [["ops@example.com"]]
    assert message["bcc"] is None
    page = message.get_body(("html",))
    assert isinstance(page, EmailMessage)
    html = page.get_content()
    assert html.count("<a ") == 1
    assert not any(tag in html for tag in ("<script", "<img", "<svg", "<at>", "onerror=alert(1)>"))
