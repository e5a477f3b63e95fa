"""Apprise, in its own process, against a real HTTP server."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from almenara.hookspecs import DeliveryError, Notifier
from almenara_notifiers import KINDS
from support.notification_receivers import HttpReceiver
from support.notifications import HOSTILE, make_notification, resolved

pytest.importorskip("apprise")
pytestmark = pytest.mark.anyio
SECRET = "s3cret-path"
(KIND,) = [kind for kind in KINDS if kind.name == "apprise"]


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    with HttpReceiver() as server:
        yield server


def create(*urls: str) -> Notifier:
    from almenara.config import decode_settings

    settings = decode_settings(KIND.settings, {"urls": list(urls)}, place="settings")
    return KIND.create(settings)


def address(receiver: HttpReceiver) -> str:
    return receiver.url.replace("http://", "json://") + f"/{SECRET}"


async def test_notification_arrives_with_its_texts(receiver: HttpReceiver) -> None:
    notifier = create(address(receiver))
    first = make_notification(title=HOSTILE, text=f"{HOSTILE}\n\\n :smile:")
    await notifier.notify(first)
    await notifier.notify(resolved(make_notification()))
    start, end = (request.json for request in receiver.requests)
    assert (start["title"], start["type"], end["type"]) == (HOSTILE, "failure", "success")
    assert start["message"].startswith(f"{HOSTILE}\n\\n :smile:")
    assert start["message"].endswith(first.link)


async def test_service_that_refuses_is_an_error_without_the_secret(receiver: HttpReceiver) -> None:
    receiver.answer = lambda request: (500, {}, b"broken")
    with pytest.raises(DeliveryError) as raised:
        await create(address(receiver)).notify(make_notification())
    assert "500" in str(raised.value)
    assert SECRET not in str(raised.value)


async def test_wrong_address_is_named_by_its_place() -> None:
    with pytest.raises(DeliveryError, match=r"urls\[0\] is not a URL of Apprise"):
        await create("nonsense").notify(make_notification())


async def test_cancelled_delivery_ends_its_process(receiver: HttpReceiver) -> None:
    receiver.answer = lambda request: (-1, {}, b"")
    processes: list[Any] = []
    start = asyncio.create_subprocess_exec

    async def record(*arguments: Any, **options: Any) -> Any:
        processes.append(await start(*arguments, **options))
        return processes[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "create_subprocess_exec", record)
        task = asyncio.ensure_future(create(address(receiver)).notify(make_notification()))
        while not receiver.requests:
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert processes[0].returncode == -9
