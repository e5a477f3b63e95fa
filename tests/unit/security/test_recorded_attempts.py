"""Failed sign-ins that the access log has."""

import asyncio
from pathlib import Path

import pytest

from almenara.bus.embedded import EmbeddedBus
from almenara.config import StorageSettings
from almenara.history import History
from almenara.security.audit import Audit
from almenara.security.rate_limit import FailureLimiter
from almenara.security.recorded_attempts import RecordedAttempts
from support.bus import collect_records, make_event

pytestmark = pytest.mark.anyio
FREE = 3
ADDRESS = "203.0.113.9"


async def test_attempts_of_another_replica_count_once_and_until_it_signs_in(tmp_path: Path) -> None:
    attempts = FailureLimiter(FREE)
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus, asyncio.TaskGroup() as group:
        own, other = Audit(bus), Audit(bus)
        recorded = RecordedAttempts(bus, own, attempts)
        running = [group.create_task(audit.run()) for audit in (own, other)]
        refusal = {"user": "", "address": ADDRESS, "reason": "a token was wrong"}
        for _ in range(FREE):
            own.record_refusal("sign_in_refused", **refusal)
            other.record_refusal("sign_in_refused", **refusal)
        forged = {"address": ADDRESS}
        await bus.publish([make_event(1, type="almenara.access.signed_in", data=forged)], "nats")
        records = await collect_records(bus, 0, 2 * FREE + 1)
        recorded.accept(records)
        assert attempts.record_failure(ADDRESS) == FREE + 1
        assert attempts.remaining_wait(ADDRESS) > 0
        restarted = FailureLimiter(FREE)
        await RecordedAttempts(bus, Audit(bus), restarted).load(History(bus))
        assert restarted.record_failure(ADDRESS) == 2 * FREE + 1
        other.record("signed_in", user="a", address=ADDRESS)
        recorded.accept(await collect_records(bus, records[-1].sequence, 1))
        assert attempts.remaining_wait(ADDRESS) == 0
        for task in running:
            task.cancel()
