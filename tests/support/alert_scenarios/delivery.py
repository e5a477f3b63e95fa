"""Scenarios of receivers: how each kind is notified, and what happens when one fails."""

import json
import time
from typing import Any

from support.alert_scenarios import Receiver, Stage, scenario
from support.notification_receivers import Answer, Request, Slack, accept

HOSTILE = "<!channel> [x](https://evil.example) \r\nBcc: evil@example.com <script>alert(1)</script>"


class Failing:
    """Answers with the given answers first, and then accepts."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.times: list[float] = []

    def __call__(self, request: Request) -> Answer:
        self.times.append(time.monotonic())
        return self.answers.pop(0) if self.answers else accept(request)


class Switch:
    """Answers with an error until it is repaired."""

    def __init__(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.status, self.headers, self.is_repaired = status, headers or {}, False
        self.refused = 0

    def __call__(self, request: Request) -> Answer:
        if self.is_repaired:
            return accept(request)
        self.refused += 1
        return self.status, self.headers, b"not now"


async def health(stage: Stage, part: str = "") -> dict[str, Any]:
    """The receiver of a scenario as a resource."""
    listed = await stage.call("GET", "/api/resources?kind=almenara.receiver")
    name = f"{stage.name}-{part}" if part else stage.name
    receiver: dict[str, Any] = next(each for each in listed if each["name"] == name)
    return receiver


@scenario(receivers={"": Receiver(kind="slack", answer=Slack())})
async def slack_edits_one_message_and_replies_in_its_thread(stage: Stage) -> None:
    slack = stage.box().answer
    assert isinstance(slack, Slack)
    await stage.fail("a")
    await stage.until(lambda: slack.messages, "the message")
    await stage.fail("b")
    await stage.until(lambda: len(slack.replies) == 1, "a reply")
    await stage.recover("a", "b")
    await stage.until(lambda: "RESOLVED" in slack.messages["1.000"]["text"], "the end")
    await stage.until(lambda: len(slack.replies) == 2, "the reply about the end")
    assert list(slack.messages) == ["1.000"]


@scenario(receivers={"": Receiver(kind="email")})
async def mails_of_a_group_are_one_thread(stage: Stage) -> None:
    def mails() -> list[Any]:
        return [
            message for message in stage.host.mail.mailbox.messages
            if message["to"] == f"{stage.name}@example.com"
        ]  # fmt: skip

    await stage.fail("a")
    await stage.until(mails, "the mail")
    await stage.fail("b")
    await stage.until(lambda: len(mails()) == 2, "the second mail")
    await stage.recover("a", "b")
    await stage.until(lambda: len(mails()) == 3, "the last mail")
    first, second, last = mails()
    assert first["references"] is None
    assert second["references"] == last["references"] == first["message-id"]
    assert last["subject"].startswith("[RESOLVED")


@scenario(receivers={"": Receiver(kind="pagerduty")})
async def pagerduty_opens_acknowledges_and_resolves_one_incident(stage: Stage) -> None:
    box = stage.box()
    await stage.fail("a")
    await stage.until(lambda: box.bodies, "the incident")
    await stage.act("acknowledge", "a")
    await stage.until(lambda: len(box.bodies) == 2, "the acknowledgement")
    await stage.recover("a")
    await stage.until(lambda: len(box.bodies) == 3, "the end")
    assert [body["event_action"] for body in box.bodies] == ["trigger", "acknowledge", "resolve"]
    assert len({body["dedup_key"] for body in box.bodies}) == 1


@scenario(receivers={"": Receiver(kind="teams")})
async def teams_gets_a_card(stage: Stage) -> None:
    await stage.fail("a")
    await stage.until(lambda: stage.box().bodies, "the card")
    (attachment,) = stage.box().bodies[0]["attachments"]
    title = attachment["content"]["body"][0]["inlines"][0]
    assert title["text"].startswith(f"[FIRING] {stage.name}")


@scenario(receivers={"": Receiver(kind="ntfy")})
async def ntfy_gets_a_message_of_its_topic(stage: Stage) -> None:
    await stage.fail("a")
    await stage.until(lambda: stage.box().bodies, "the message")
    body = stage.box().bodies[0]
    assert (body["topic"], body["title"].startswith("[FIRING]")) == ("alerts", True)


@scenario(receivers={"": Receiver(kind="alertmanager")})
async def alertmanager_gets_alerts_with_their_end(stage: Stage) -> None:
    box = stage.box()
    await stage.fail("a")
    await stage.until(lambda: box.bodies, "the alert")
    (firing,) = box.bodies[0]
    assert firing["labels"]["alertname"] == stage.name
    await stage.recover("a")
    await stage.until(lambda: len(box.bodies) == 2, "the end")
    (ended,) = box.bodies[1]
    assert ended["labels"] == firing["labels"]
    assert firing["startsAt"] == ended["startsAt"] < ended["endsAt"] < firing["endsAt"]


@scenario(receivers={"": Receiver(settings={"format": "alertmanager"})})
async def a_webhook_has_the_body_of_alertmanager(stage: Stage) -> None:
    await stage.fail("a")
    await stage.until(lambda: stage.box().bodies, "the request")
    body = stage.box().bodies[0]
    assert (body["version"], body["status"], body["alerts"][0]["status"]) == (
        "4", "firing", "firing",
    )  # fmt: skip


@scenario(
    rules=[{"annotations": {"summary": "{{ state.note }}"}}],
    receivers={"": Receiver(), "mail": Receiver(kind="email"),
               "slack": Receiver(kind="slack_webhook"), "teams": Receiver(kind="teams")},
    routes=[{"matchers": [], "receivers": ["", "mail", "slack", "teams"]}],
)  # fmt: skip
async def hostile_text_stays_text_at_every_receiver(stage: Stage) -> None:
    await stage.fail("a", state={"note": HOSTILE})
    summary = (await stage.next()).alerts[0]["summary"]
    assert (summary[:36], summary[-25:]) == (HOSTILE[:36], HOSTILE[-25:])
    assert summary.isprintable()
    await stage.until(lambda: stage.box("slack").bodies, "the message")
    assert "<" not in stage.box("slack").bodies[0]["text"]
    await stage.until(lambda: stage.box("teams").bodies, "the card")
    card = stage.box("teams").bodies[0]["attachments"][0]["content"]
    assert {part["type"] for part in card["body"]} == {"RichTextBlock"}
    address = f"{stage.name}-mail@example.com"
    mailbox = stage.host.mail.mailbox
    await stage.until(lambda: [address] in mailbox.recipients, "the mail")
    message = mailbox.messages[mailbox.recipients.index([address])]
    assert (message["bcc"], "<script" in message.get_body(("html",)).get_content()) == (None, False)


@scenario(receivers={"": Receiver(answer=Failing((500, {}, b""), (0, {}, b""), (502, {}, b"")))})
async def a_delivery_is_repeated_until_it_is_accepted(stage: Stage) -> None:
    await stage.fail("a")
    assert (await stage.next()).names == {"a": "firing"}
    requests = stage.box().requests
    assert len(requests) == 4
    assert len({request.headers["idempotency-key"] for request in requests}) == 1


@scenario(receivers={"": Receiver(answer=Failing((429, {"retry-after": "4"}, b"slow down")))})
async def the_time_that_a_receiver_names_is_obeyed(stage: Stage) -> None:
    answer = stage.box().answer
    assert isinstance(answer, Failing)
    await stage.fail("a")
    await stage.next()
    first, second = answer.times
    assert second - first >= 4


@scenario(receivers={"": Receiver(answer=Failing((-1, {}, b"")), options={"timeout": 0.5})})
async def a_receiver_that_hangs_is_tried_again(stage: Stage) -> None:
    await stage.fail("a")
    assert (await stage.next()).names == {"a": "firing"}
    assert len(stage.box().requests) == 2


@scenario(
    receivers={"": Receiver(answer=Switch(302, {"location": "http://127.0.0.1:1/"}),
                            options={"fallback": "other"}),
               "other": Receiver()},
)  # fmt: skip
async def a_redirect_is_not_followed_and_the_fallback_takes_over(stage: Stage) -> None:
    await stage.fail("a")
    message = await stage.next("other")
    assert message.names == {"a": "firing"}
    assert f"Receiver {stage.name} has been failing since" in message.text
    receiver = await health(stage)
    assert (receiver["status"], receiver["state"]["waiting"]) == ("failing", 1)
    assert "redirects are not followed" in receiver["state"]["error"]


@scenario(
    receivers={"": Receiver(answer=Failing((400, {}, b"no such field")),
                            options={"fallback": "other"}),
               "other": Receiver()},
)  # fmt: skip
async def what_a_receiver_refuses_goes_to_the_fallback_at_once(stage: Stage) -> None:
    await stage.fail("a")
    message = await stage.next("other")
    assert "has refused this notification" in message.text
    assert len(stage.box().requests) == 1
    assert (await health(stage))["state"]["refused"] == 1
    await stage.recover("a")
    # Both know the alert: the one that has refused its start may accept its end.
    assert (await stage.next("other")).status == "resolved"


@scenario(receivers={"": Receiver(answer=Switch(503))})
async def a_receiver_that_returns_gets_the_present_state_once(stage: Stage) -> None:
    switch = stage.box().answer
    assert isinstance(switch, Switch)
    await stage.fail("a")
    await stage.until(lambda: switch.refused, "a refused delivery")
    await stage.fail("b")
    await stage.alert("b", "firing")
    await stage.recover("a")
    await stage.alert("a", "resolved")
    await stage.elapse(1.0)
    switch.is_repaired = True
    message = await stage.next()
    assert message.names == {"a": "resolved", "b": "firing"}

    async def is_delivered() -> bool:
        return bool((await health(stage))["state"]["waiting"] == 0)

    await stage.eventually(is_delivered, "an empty outbox")
    assert stage.unread() == 0


@scenario(
    receivers={"": Receiver(answer=Switch(503), options={"fallback": "other"}),
               "other": Receiver()},
)  # fmt: skip
async def a_fallback_gets_the_end_as_well(stage: Stage) -> None:
    switch = stage.box().answer
    assert isinstance(switch, Switch)
    await stage.fail("a")
    assert (await stage.next("other")).names == {"a": "firing"}
    switch.is_repaired = True
    assert (await stage.next()).names == {"a": "firing"}
    await stage.recover("a")
    assert (await stage.next("other")).status == "resolved"
    assert (await stage.next()).status == "resolved"


@scenario(receivers={"": Receiver(), "down": Receiver(answer=Switch(503))},
          routes=[{"matchers": [], "receivers": ["", "down"]}])  # fmt: skip
async def a_receiver_that_is_down_delays_no_other(stage: Stage) -> None:
    for name in ("a", "b"):
        await stage.fail(name)
        assert name in (await stage.next()).names
    assert stage.box("down").bodies == []


@scenario(
    receivers={"": Receiver(options={"title": "{{ status }} {{ name }}",
                                     "text": "{% for alert in alerts %}{{ alert.labels.name }} "
                                             "{{ alert.threshold|length }}{% endfor %}"})}
)  # fmt: skip
async def a_template_that_fails_is_replaced_by_the_default(stage: Stage) -> None:
    await stage.fail("a")
    message = await stage.next()
    assert message.title == f"firing {stage.name}"
    assert "The template of the text failed" in message.text
    assert "FIRING ERROR" in message.text


@scenario()
async def deliveries_are_events_of_the_log(stage: Stage) -> None:
    await stage.fail("a")
    message = await stage.next()
    alert = await stage.alert("a")
    query = f"/api/events?type=almenara.notification.delivered&subject={stage.name}"

    async def list_events() -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = (await stage.call("GET", query))["events"]
        return events

    events = await stage.eventually(list_events, "the event about the delivery")
    data = events[0]["data"]
    assert (data["alerts"], data["version"]) == ([alert["key"]], message.version)
    assert "xoxb" not in json.dumps(events)
