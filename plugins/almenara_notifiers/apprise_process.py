"""The process that sends one notification with Apprise: reads it as JSON, and writes the result."""

import json
import logging
import sys


class Reasons(logging.Handler):
    """Collects what Apprise logs about failures."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def send(message: dict[str, str], urls: list[str]) -> tuple[bool, str]:
    """Return whether every service has accepted a notification, and why not."""
    import apprise

    reasons = Reasons()
    logger = logging.getLogger("apprise")
    logger.addHandler(reasons)
    logger.propagate = False
    # No texts of alerts are interpreted: neither escapes, nor emojis.
    services = apprise.Apprise(
        asset=apprise.AppriseAsset(interpret_escapes=False, interpret_emojis=False)
    )
    for number, url in enumerate(urls):
        if not services.add(url):
            return False, f"urls[{number}] is not a URL of Apprise"
    is_sent = services.notify(
        title=message["title"], body=message["body"], notify_type=message["type"],
        body_format=apprise.NotifyFormat.TEXT,
    )  # fmt: skip
    if is_sent:
        return True, ""
    return False, "; ".join(reasons.lines[-3:]) or "Apprise did not deliver it"


def main() -> None:
    message = json.load(sys.stdin)
    is_delivered, reason = send(message, message.pop("urls"))
    # Written at once and alone, whatever a library prints before.
    sys.stdout.write("\n" + json.dumps({"is_delivered": is_delivered, "reason": reason}))


if __name__ == "__main__":
    main()
