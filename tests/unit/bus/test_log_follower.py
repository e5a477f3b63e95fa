"""What a replica reads again when a session follows another one."""

from pathlib import Path

import pytest

from almenara.bus.log_message import LogBatch, encode_batch
from almenara.bus.log_state import OWNER, POSITION, decode_position
from almenara.bus.shared import SharedBus
from almenara.config import StorageSettings
from support.bus import make_event
from support.memory_log import LogView, MemoryLog
from support.nats_source import until

pytestmark = pytest.mark.anyio


def encode_parts(value: bytes) -> list[bytes]:
    """Return the two messages of a batch that stores a value."""
    batch = LogBatch("test", 0, changes=[("plugin", "key", value)])
    size = len(encode_batch(batch, bytes(16), 1_000)[0])
    parts = encode_batch(batch, value.ljust(16), size - 10)
    assert len(parts) == 2
    return parts


async def read_resume_at(bus: SharedBus) -> tuple[int, int]:
    position = decode_position(await bus.load(OWNER, POSITION))
    assert position is not None
    return position.position, position.resume_at


@pytest.mark.parametrize("is_restarted", [False, True], ids=["session", "process"])
async def test_complete_batch_is_not_open_after_its_last_part_is_read_again(
    tmp_path: Path, is_restarted: bool
) -> None:
    log = MemoryLog()
    view = LogView(log)
    settings = StorageSettings(dir=tmp_path, write_retry_interval=0.01)
    for number, part in enumerate(encode_parts(b"1")):
        log.append(part, str(number))
    async with SharedBus(settings, view) as bus:
        assert await read_resume_at(bus) == (2, 3)
        if not is_restarted:
            before = view.attempts
            view.end_session()
            await until(lambda: view.attempts > before, "the next session")
            await bus.publish([make_event(1)], "test")
            assert await read_resume_at(bus) == (3, 4)
    if is_restarted:
        async with SharedBus(settings, view) as bus:
            await bus.publish([make_event(1)], "test")
            assert await read_resume_at(bus) == (3, 4)


async def test_batch_whose_session_ends_between_its_parts_is_complete(tmp_path: Path) -> None:
    log = MemoryLog()
    view = LogView(log)
    settings = StorageSettings(dir=tmp_path, write_retry_interval=0.01)
    first, last = encode_parts(b"1")
    async with SharedBus(settings, view) as bus:
        log.append(first, "0")
        await bus.publish([make_event(1)], "test")
        assert await read_resume_at(bus) == (2, 1)
        before = view.attempts
        view.end_session()
        await until(lambda: view.attempts > before, "the next session")
        await bus.publish([make_event(2)], "test")
        assert await read_resume_at(bus) == (3, 1)
        log.append(last, "1")
        await bus.publish([make_event(3)], "test")
        assert await bus.load("plugin", "key") == b"1"
        assert await read_resume_at(bus) == (5, 6)
