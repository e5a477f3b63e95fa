"""The notifier of the documentation works as the page describes."""

import re
import types

import pytest

from almenara.config import decode_settings
from almenara.hookspecs import DeliveryError, DeliveryRefusedError, Notifier
from support.notification_receivers import HttpReceiver
from support.notifications import make_notification
from support.paths import ROOT

pytestmark = pytest.mark.anyio
PAGE = (ROOT / "docs" / "plugins" / "notifiers.md").read_text("utf-8")


def create(url: str) -> Notifier:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    module = types.ModuleType("gong")
    exec(compile(example, "notifiers.md", "exec"), module.__dict__)
    (kind,) = module.almenara_notifiers()
    notifier: Notifier = kind.create(decode_settings(kind.settings, {"url": url}, place="settings"))
    return notifier


async def test_notifier_of_the_documentation_delivers_and_reports_errors() -> None:
    with HttpReceiver() as receiver:
        notifier = create(f"{receiver.url}/s3cret-path")
        receiver.answers = [(200, {"x-id": "7"}, b""), (400, {}, b""), (500, {}, b"")]
        assert (await notifier.notify(make_notification())).reference == "7"
        with pytest.raises(DeliveryRefusedError):
            await notifier.notify(make_notification())
        with pytest.raises(DeliveryError, match="status 500"):
            await notifier.notify(make_notification())
    with pytest.raises(DeliveryError) as error:
        await create("http://127.0.0.1:1/s3cret-path").notify(make_notification())
    assert "s3cret-path" not in str(error.value)
