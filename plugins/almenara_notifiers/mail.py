"""E-mail over SMTP: text and HTML, and one thread for each group by Message-ID and References."""

import html
import math
import re
import ssl
from collections.abc import Iterator, Mapping, Sequence
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formataddr, formatdate, parseaddr
from typing import Final

import aiosmtplib
import msgspec

from almenara.config import redact_secrets
from almenara.hookspecs import Delivery, DeliveryError, DeliveryRefusedError, Notification
from almenara.sdk import describe_error
from almenara_notifiers.client import reveal
from almenara_notifiers.png_chart import draw_chart
from almenara_notifiers.settings import MAIL_PORTS, EmailSettings
from almenara_notifiers.text import LINK_TEXT, color_of, cut

TIMEOUT: Final = 30.0
MAX_SUBJECT: Final = 200
REFUSED: Final = frozenset((552, 554))
"""Replies to the content of a message: too large, or taken for spam."""
PERMANENT: Final = 500
"""Replies from which on a server will not change its mind."""
UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]")


class EmailNotifier:
    """A message for each notification, in the thread of its group."""

    def __init__(self, settings: EmailSettings) -> None:
        self.settings = settings
        _, address = parseaddr(settings.sender)
        self._domain = UNSAFE.sub("-", address.rpartition("@")[2])

    async def notify(self, notification: Notification) -> Delivery:
        settings = self.settings
        message = self.make_message(notification)
        try:
            refused, _ = await aiosmtplib.send(
                message,
                hostname=settings.host,
                port=settings.port or MAIL_PORTS[settings.security],
                use_tls=settings.security == "tls",
                start_tls=settings.security == "starttls",
                tls_context=self._trust() if settings.security != "none" else None,
                username=settings.user,
                password=reveal(settings.password) if settings.password is not None else None,
                timeout=TIMEOUT,
            )
        except aiosmtplib.SMTPDataError as error:
            text = self._describe(error)
            if error.code in REFUSED:
                raise DeliveryRefusedError(text) from None
            raise DeliveryError(text) from None
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            raise DeliveryError(self._describe(error)) from None
        self._raise_if_refused(refused)
        return Delivery(reference=notification.reference or str(message["Message-ID"]))

    def _raise_if_refused(self, refused: Mapping[str, tuple[int, str]]) -> None:
        """Report recipients that were refused, although the server has taken the message for the
        others."""
        if not refused:
            return
        reasons = "; ".join(f"{name}: {code} {text}" for name, (code, text) in refused.items())
        text = self._describe(
            f"the server refuses {len(refused)} of {len(self.settings.to)} recipients ({reasons});"
            " correct settings.to"
        )
        if all(code >= PERMANENT for code, _ in refused.values()):
            raise DeliveryRefusedError(text)
        raise DeliveryError(text)

    def make_message(self, notification: Notification) -> EmailMessage:
        """Return the message of a notification. The same notification has the same Message-ID."""
        message = EmailMessage(policy=SMTP)
        message["Subject"] = cut(one_line(notification.title), MAX_SUBJECT)
        message["From"] = formataddr(parseaddr(self.settings.sender))
        message["To"] = ", ".join(formataddr(parseaddr(address)) for address in self.settings.to)
        message["Date"] = formatdate(notification.created / 1_000_000)
        message["Message-ID"] = self._message_id(notification)
        if notification.reference:
            root = one_line(notification.reference)
            message["In-Reply-To"] = root
            message["References"] = root
        # No vacation responder answers, and no ticket system opens a ticket about a ticket.
        message["Auto-Submitted"] = "auto-generated"
        link = f"\n\n{notification.link}" if notification.link else ""
        message.set_content(f"{notification.text}{link}\n")
        charts = list(list_charts(notification))
        message.add_alternative(make_html(notification, charts), subtype="html")
        if (page := message.get_body(("html",))) is not None:
            for chart in charts:
                page.add_related(
                    chart.picture, "image", "png", cid=f"<{chart.identity}>", disposition="inline"
                )
        return message

    def _message_id(self, notification: Notification) -> str:
        parts = (notification.episode, str(notification.version), notification.receiver)
        local = ".".join(UNSAFE.sub("-", text) for text in parts)
        return f"<{local[:200]}@{self._domain}>"

    def _trust(self) -> ssl.SSLContext:
        # The context of the system is that of the clients for HTTP.
        from almenara.sdk.http import trust_context

        return trust_context(self.settings.ca, verify=self.settings.verify)

    def _describe(self, error: Exception | str) -> str:
        """Why a message was not sent, without what the server repeats of the credentials."""
        text = error if isinstance(error, str) else describe_error(error)
        text = redact_secrets(text, [self.settings.password])
        if isinstance(error, aiosmtplib.SMTPAuthenticationError):
            text = f"the server refuses user and password: {text}"
        return "".join(character if character.isprintable() else "·" for character in text)


class Chart(msgspec.Struct, frozen=True):
    """A picture in a message."""

    identity: str
    title: str
    picture: bytes


def list_charts(notification: Notification) -> Iterator[Chart]:
    """Yield a chart for each alert that has samples."""
    for place, alert in enumerate(notification.alerts):
        if sum(math.isfinite(value) for _, value in alert.points) < 2:
            continue
        threshold = alert.threshold if isinstance(alert.threshold, float) else None
        yield Chart(
            f"chart-{place}@almenara",
            f"{alert.metric}: {alert.summary or alert.rule}",
            draw_chart(alert.points, threshold),
        )


def make_html(notification: Notification, charts: Sequence[Chart] = ()) -> str:
    """Return the notification as HTML, with every text escaped."""
    lines = "<br>\n".join(
        html.escape(line).replace("  ", "&nbsp; ") for line in notification.text.splitlines()
    )
    pictures = "".join(
        f'<p><img src="cid:{chart.identity}" alt="{html.escape(chart.title, quote=True)}"'
        f' width="600" style="max-width: 100%"><br>{html.escape(chart.title)}</p>\n'
        for chart in charts
    )
    link = ""
    if notification.link:
        link = f'<p><a href="{html.escape(notification.link, quote=True)}">{LINK_TEXT}</a></p>\n'
    return (
        '<!doctype html>\n<html><body style="font-family: sans-serif">\n'
        f'<div style="border-left: 4px solid {color_of(notification)}; padding: 0 12px">\n'
        f'<h2 style="font-size: 16px">{html.escape(notification.title)}</h2>\n'
        f"<p>{lines}</p>\n{pictures}{link}</div>\n</body></html>\n"
    )


def one_line(text: str) -> str:
    """Return a text that cannot end a header.

    The email package decodes encoded words that are in a value, line breaks in them included, and
    writes those into the header.
    """
    return " ".join(text.replace("=?", "= ?").split())
