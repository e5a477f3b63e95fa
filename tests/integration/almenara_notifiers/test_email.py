"""E-mail, against a real SMTP server."""

import ssl
from email.message import EmailMessage
from typing import Any

import pytest

from almenara.config import ConfigError, decode_settings
from almenara.hookspecs import DeliveryError, DeliveryRefusedError, Notifier
from almenara_notifiers import KINDS
from support.certificates import issue_self_signed
from support.notification_receivers import SmtpReceiver
from support.notifications import HOSTILE, HTML, make_notification, resolved

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore:Requiring AUTH")]
PASSWORD = "s3cret-passw0rd"
(KIND,) = [kind for kind in KINDS if kind.name == "email"]


def create(port: int, **settings: Any) -> Notifier:
    tree = {
        "host": "127.0.0.1",
        "port": port,
        "security": "none",
        "from": "Almenara <almenara@example.com>",
        "to": ["ops@example.com", "Ann Other <ann@example.com>"],
        **settings,
    }
    return KIND.create(decode_settings(KIND.settings, tree, place="settings"))


def body_of(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    assert part is not None
    return str(part.get_content())


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, str]:
    folder = tmp_path_factory.mktemp("tls")
    return issue_self_signed(folder, days=2), str(folder / "cert.pem")


async def test_message_has_text_and_html() -> None:
    with SmtpReceiver() as server:
        await create(server.port).notify(make_notification(title="[FIRING] Größe über 90 %"))
        (message,) = server.mailbox.messages
        assert server.mailbox.recipients == [["ops@example.com", "ann@example.com"]]
    assert message["subject"] == "[FIRING] Größe über 90 %"
    assert message["from"] == "Almenara <almenara@example.com>"
    assert message["auto-submitted"] == "auto-generated"
    lines = body_of(message, "plain").splitlines()
    assert lines[:2] == ["FIRING ERROR The disk is full", "second line"]
    assert "https://almenara.example.com/events?type=a.%3E" in body_of(message, "plain")
    html = body_of(message, "html")
    assert 'href="https://almenara.example.com/events?type=a.%3E"' in html
    assert "FIRING ERROR The disk is full<br>" in html


@pytest.mark.parametrize(
    ("reply", "error"), [("550 no such user", DeliveryRefusedError), ("450 later", DeliveryError)]
)
async def test_refused_recipient_is_reported_though_others_have_the_message(
    reply: str, error: type[DeliveryError]
) -> None:
    with SmtpReceiver() as server:
        server.mailbox.refusals["ann@example.com"] = reply
        with pytest.raises(DeliveryError, match=r"1 of 2 recipients \(ann@") as caught:
            await create(server.port).notify(make_notification())
        assert type(caught.value) is error
        assert server.mailbox.recipients == [["ops@example.com"]]


async def test_messages_of_a_group_are_one_thread() -> None:
    first = make_notification()
    with SmtpReceiver() as server:
        notifier = create(server.port)
        delivery = await notifier.notify(first)
        await notifier.notify(resolved(first, reference=delivery.reference))
        start, end = server.mailbox.messages
    assert start["message-id"] == delivery.reference
    assert start["references"] is None
    assert end["references"] == end["in-reply-to"] == start["message-id"]
    assert end["message-id"] != start["message-id"]


async def test_repeated_delivery_has_the_same_message_id() -> None:
    with SmtpReceiver() as server:
        notifier = create(server.port)
        for _ in range(2):
            await notifier.notify(make_notification())
        first, second = server.mailbox.messages
    assert first["message-id"] == second["message-id"] == "<g1-7.7.ops@example.com>"


@pytest.mark.parametrize(
    "hostile",
    ["a\r\nBcc: evil@example.com", "a\nBcc: evil@example.com\n\nbody", "a\r\n\r\nbody",
     "a\x00\x0bb", "=?utf-8?q?a=0D=0ABcc=3A_evil=40example=2Ecom?=", "\u2028Bcc: evil@example.com"],
)  # fmt: skip
async def test_no_text_becomes_a_header(hostile: str) -> None:
    notification = make_notification(
        title=hostile, text=hostile, episode=hostile, receiver=hostile, reference=f"<x@y>{hostile}"
    )
    with SmtpReceiver() as server:
        await create(server.port).notify(notification)
        (message,) = server.mailbox.messages
        (recipients,) = server.mailbox.recipients
        (raw,) = server.mailbox.raw
    assert "evil@example.com" not in recipients
    assert message["bcc"] is None
    head = raw.partition(b"\r\n\r\n")[0]
    names = {
        line.partition(b":")[0].lower() for line in head.split(b"\r\n") if line[:1] not in b" \t"
    }
    assert names <= {
        b"subject", b"from", b"to", b"date", b"message-id", b"in-reply-to", b"references",
        b"auto-submitted", b"mime-version", b"content-type", b"x-peer", b"x-mailfrom", b"x-rcptto",
    }  # fmt: skip


async def test_hostile_text_is_escaped_in_html() -> None:
    notification = make_notification(title=HOSTILE, text=HOSTILE, link='https://x/?a="><script>')
    with SmtpReceiver() as server:
        await create(server.port).notify(notification)
        (message,) = server.mailbox.messages
    html = body_of(message, "html")
    assert "<script" not in html
    assert "<img" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert HTML in body_of(message, "plain")


async def test_starttls_with_authentication(context: tuple[ssl.SSLContext, str]) -> None:
    with SmtpReceiver(starttls=context[0], login=("ann", PASSWORD)) as server:
        notifier = create(
            server.port, security="starttls", ca=context[1], user="ann", password=PASSWORD
        )
        await notifier.notify(make_notification())
        assert len(server.mailbox.raw) == 1


async def test_tls_from_the_start(context: tuple[ssl.SSLContext, str]) -> None:
    with SmtpReceiver(tls=context[0], login=("ann", PASSWORD)) as server:
        notifier = create(server.port, security="tls", ca=context[1], user="ann", password=PASSWORD)
        await notifier.notify(make_notification())
        assert len(server.mailbox.raw) == 1


async def test_unknown_certificate_is_refused(context: tuple[ssl.SSLContext, str]) -> None:
    with SmtpReceiver(starttls=context[0]) as server:
        with pytest.raises(DeliveryError, match=r"(?i)certificate"):
            await create(server.port, security="starttls").notify(make_notification())
        assert server.mailbox.raw == []


async def test_password_is_not_sent_where_starttls_was_removed() -> None:
    with SmtpReceiver() as server:
        notifier = create(server.port, security="starttls", user="ann", password=PASSWORD)
        with pytest.raises(DeliveryError, match=r"(?i)starttls") as error:
            await notifier.notify(make_notification())
        assert server.mailbox.raw == []
    assert PASSWORD not in str(error.value)


async def test_wrong_password_is_reported_without_it(context: tuple[ssl.SSLContext, str]) -> None:
    with SmtpReceiver(tls=context[0], login=("ann", "another")) as server:
        notifier = create(server.port, security="tls", ca=context[1], user="ann", password=PASSWORD)
        with pytest.raises(DeliveryError, match="the server refuses user and password") as error:
            await notifier.notify(make_notification())
    assert PASSWORD not in str(error.value)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [("451 try later", DeliveryError), ("550 no such user", DeliveryError),
     ("552 too large", DeliveryRefusedError), ("554 looks like spam", DeliveryRefusedError)],
)  # fmt: skip
async def test_reply_of_the_server_decides_whether_it_is_sent_again(
    reply: str, kind: type[DeliveryError]
) -> None:
    with SmtpReceiver() as server:
        server.mailbox.replies = [reply]
        with pytest.raises(DeliveryError, match=reply[4:]) as error:
            await create(server.port).notify(make_notification())
    assert type(error.value) is kind


async def test_unreachable_server_is_an_error() -> None:
    with pytest.raises(DeliveryError):
        await create(1).notify(make_notification())


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"to": ["ops"]}, "to: 'ops' is not an e-mail address"),
        ({"to": []}, "to"),
        ({"to": ["a@b.example\r\nBcc: c@d.example"]}, "is not an e-mail address"),
        ({"from": "nobody"}, "from: 'nobody' is not an e-mail address"),
        ({"user": "ann"}, "user and password belong together"),
        ({"user": "ann", "password": PASSWORD}, "would be sent in the clear"),
        ({"security": "ssl"}, "expected one of starttls, tls, none"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as error:
        create(25, **settings)
    assert PASSWORD not in str(error.value)
