"""Leases of replicas that share a log: stored beside it, with a time to live.

A holder renews its leases three times within that time. It gives one up by itself, by its own
monotonic clock, before the lease can expire for others. Work that has no effect but what it
publishes goes on for longer, because the log ignores it once another replica runs it: so a source
continues while the servers of the leases elect a leader.
"""

import asyncio
import contextlib
import uuid
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any, Final, Protocol

import msgspec
import structlog

from almenara.bus import MARKER, BusClosedError, StateChange
from almenara.bus.log_state import FencedError
from almenara.cancellation import cancel_and_wait, finish_within, run_in_task
from almenara.errors import AlmenaraError, Unavailable, describe_error
from almenara.leases import Work
from almenara.leases.members import Members, SettingsDigests
from almenara.leases.table import Entry, Holder, LeaseTable, choose_member, lease_key
from almenara.shared_log import LogSession
from almenara.signals import Signal

log = structlog.get_logger(__name__)

TICK: Final = 0.5
"""Seconds between two looks at the leases, when nothing changes."""
EXPIRY_CHECK: Final = 0.1
RENEWALS: Final = 3
"""Renewals within the time to live."""
OWN_SHARE: Final = 0.8
"""Share of the time to live after which a holder that cannot renew a lease gives it up."""
OUTAGE: Final = 15.0
"""Seconds for which fenced work goes on without a renewal: servers elect a leader within them."""
RETURN_SHARE: Final = 0.5
"""Share of the time to live for which leases are left to their holders after an outage."""
RESTART_SHARE: Final = 0.5
"""Share of the time to live after which a lease of an earlier run of this replica is free: more
than the time between two renewals, so that two replicas with one name do not fight over it."""
GRACE: Final = 1.0
"""Seconds for which a free lease is left to the member that should have it."""
SETTLE: Final = 5.0
"""Seconds for which another member must be the one that should have a lease, before it moves."""
RETRY_INTERVAL: Final = 0.1
"""Seconds after the loss of a lease until it is tried again, also where work cannot start."""
RELEASE_TIMEOUT: Final = 1.0
RELEASED: Final = "its work has ended"


class LeaseBus(Protocol):
    """What leases need from the bus."""

    async def publish(
        self,
        batch: Sequence[Signal],
        origin: str,
        changes: Sequence[StateChange] = (),
        token: int = 0,
    ) -> None:
        """Publish a batch under the lease with a token. Raises `FencedError`."""

    async def wait_for_session(self) -> LogSession:
        """Return a session once the index has applied the log."""

    @property
    def session(self) -> LogSession | None:
        """The session that is open now."""

    async def newest_token(self, origin: str) -> int:
        """Return the newest token that the log has of an origin; 0 for none."""


class Lease:
    """A lease that this replica waits for, or has."""

    def __init__(self, name: str, *, origin: str = "", is_fenced: bool = False) -> None:
        self.name, self.key, self.is_fenced = name, lease_key(name), is_fenced
        self.origin = origin or name
        """Of what is published under it; the log has the tokens by origin."""
        self.revision = 0
        """Of the last renewal; 0 while this replica does not have it."""
        self.token = 0
        self.renewed = 0.0
        self.is_wanted = False
        """Whether something waits for it or runs under it."""
        self.acquired = asyncio.Event()
        self.lost = asyncio.Event()
        self.free_since: float | None = None
        self.misplaced_since: float | None = None
        """Since when another member should have it."""
        self.lost_reason = ""
        """Why it was lost; empty while this replica has it."""
        self.lock = asyncio.Lock()
        """Guards its revision: one that is released must not be renewed meanwhile."""

    def set(self, revision: int, token: int, renewed: float) -> None:
        """Note that this replica has it."""
        self.revision, self.token, self.renewed = revision, token, renewed
        self.free_since = self.misplaced_since = None
        self.lost_reason = ""
        self.lost.clear()
        self.acquired.set()

    def lose(self, reason: str) -> None:
        """Note that this replica does not have it any more, or must not rely on it."""
        self.revision = 0
        self.acquired.clear()
        self.hand_over(reason)

    def hand_over(self, reason: str) -> None:
        """End the work under it; this replica has it until the work has ended."""
        self.lost_reason = self.lost_reason or reason
        self.lost.set()


class FencedBus:
    """Publishes under a lease: with its token, as it was when the work started."""

    def __init__(self, bus: LeaseBus, lease: Lease) -> None:
        self._bus, self._lease, self._token = bus, lease, lease.token

    async def publish(
        self, batch: Sequence[Signal], origin: str, changes: Sequence[StateChange] = ()
    ) -> None:
        """As `Bus.publish`; raises `FencedError` once another replica has published under a newer
        lease, and gives this one up."""
        try:
            await self._bus.publish(batch, origin, changes, self._token)
        except FencedError:
            # Tokens of leases are revisions, no secrets.
            if self._lease.token == self._token:  # nosemgrep: secret-compared-in-the-open
                self._lease.lose("another replica has published under a newer lease")
            raise


async def run_under(bus: LeaseBus, lease: Lease, work: Work) -> bool:
    """Run work under a lease that was acquired; return False where it was lost before that."""
    publisher = FencedBus(bus, lease)
    try:
        # The work reads what earlier holders have stored, perhaps long before it publishes.
        await publisher.publish((), lease.origin, (MARKER,))
    except BusClosedError:
        # The probes report it, and only a restart helps.
        await asyncio.Event().wait()
    except AlmenaraError as error:
        log.warning("work cannot start", lease=lease.name, reason=describe_error(error))
        return False
    log.info("a lease is acquired and its work starts", lease=lease.name, token=lease.token)
    await work(publisher)
    return True


class SharedLeases:
    """The leases of one replica. `run_keeper` keeps them; run it beside the sources."""

    def __init__(self, bus: LeaseBus, replica: str, digests: SettingsDigests | None = None) -> None:
        self.replica = replica
        self._bus = bus
        self._holder = Holder(replica, uuid.uuid4().hex)
        self._value = msgspec.json.encode(self._holder)
        self._leases: dict[str, Lease] = {}
        self._table = LeaseTable(0.0)
        self._outage: str | None = None
        """Why leases cannot be renewed; None while they can."""
        self._usable_since = 0.0
        """Since when they can be renewed again; 0 where that was never interrupted."""
        self.members = Members(replica, self._holder.instance, self._table, digests)
        self._member_revision = 0
        self._member_renewed = 0.0
        self._changed = asyncio.Event()

    def find_report(self, name: str) -> Mapping[str, Any] | None:
        return self.members.find_report(name)

    def holder(self, name: str) -> str:
        entry = self._table.get(lease_key(name))
        return "" if entry is None else entry.holder.replica

    async def run(
        self, name: str, work: Work, on_standby: Callable[[], None], *,
        origin: str = "", is_fenced: bool = False,
    ) -> None:  # fmt: skip
        lease = self._leases[name] = Lease(name, origin=origin, is_fenced=is_fenced)
        try:
            while True:
                if await self._run_once(lease, work, on_standby):
                    return
                await asyncio.sleep(RETRY_INTERVAL)
        finally:
            del self._leases[name]

    async def _run_once(self, lease: Lease, work: Work, on_standby: Callable[[], None]) -> bool:
        """Run work for as long as this replica has the lease; whether the work has returned."""
        name = lease.name
        on_standby()
        lease.is_wanted = True
        self._changed.set()
        try:
            await lease.acquired.wait()
            working = asyncio.ensure_future(run_under(self._bus, lease, work))
            losing = asyncio.ensure_future(lease.lost.wait())
            try:
                await asyncio.wait([working, losing], return_when=asyncio.FIRST_COMPLETED)
                if working.done():
                    return working.result()
                log.info("a lease is lost and its work stops", lease=name, reason=lease.lost_reason)
            finally:
                losing.cancel()
                await cancel_and_wait(working)
        finally:
            lease.is_wanted = False
            await self._release(lease)
        return False

    async def _release(self, lease: Lease) -> None:
        """Give a lease up at once where that is possible; otherwise it expires."""

        async def release() -> None:
            async with lease.lock:
                revision = lease.revision
                lease.lose(RELEASED)
                await self._release_key(lease.key, revision)

        with contextlib.suppress(TimeoutError):
            await finish_within(2 * RELEASE_TIMEOUT, release())
        lease.lose(RELEASED)

    async def _release_key(self, key: str, revision: int) -> None:
        session = self._bus.session
        if revision and session is not None:
            with contextlib.suppress(Unavailable, TimeoutError, OSError):
                await finish_within(RELEASE_TIMEOUT, session.leases.delete(key, revision))

    # -- keeping them

    async def run_keeper(self) -> None:
        """Acquire and renew leases, until cancelled."""
        keeping = [asyncio.create_task(call) for call in (self._keep_sessions(), self._expire())]
        try:
            done, _ = await asyncio.wait(keeping, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in keeping:
                await cancel_and_wait(task)
            await self._release_key(self.members.key, self._member_revision)

    async def _keep_sessions(self) -> None:
        while True:
            try:
                session = await self._bus.wait_for_session()
            except BusClosedError:
                # The probes report it, and only a restart helps.
                await asyncio.Event().wait()
            self._table.ttl = session.lease_ttl
            self._member_revision = 0
            try:
                await run_in_task(self._keep_session(session))
            except* (Unavailable, TimeoutError, OSError) as errors:
                self._note_outage(errors)
            except* Exception as errors:
                log.exception("renewing leases failed; it is tried again")
                self._note_outage(errors)
            await asyncio.sleep(TICK)

    async def _keep_session(self, session: LogSession) -> None:
        known = asyncio.Event()
        await self.members.read_settings()
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._watch(session, known))
            await self._keep(session, known)
            watching.cancel()

    async def _watch(self, session: LogSession, known: asyncio.Event) -> None:
        async for change in session.leases.watch():
            if change is None:
                known.set()
            else:
                self._table.accept(change)
            self._changed.set()

    async def _keep(self, session: LogSession, known: asyncio.Event) -> None:
        """Renew and acquire until the session ends."""
        # What exists arrives first, so that a lease that another replica has is not tried.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._renew_interval):
                await known.wait()
        while self._bus.session is session:
            self._changed.clear()
            try:
                await self._renew_membership(session)
                self.members.report()
                for lease in list(self._leases.values()):
                    await self._keep_lease(session, lease)
            except (Unavailable, TimeoutError, OSError) as error:
                # The session may go on: its servers can be without a leader for some seconds.
                self._note_outage(error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK):
                    await self._changed.wait()

    def _note_outage(self, error: BaseException) -> None:
        if self._outage is None:
            log.warning("leases cannot be renewed", reason=describe_error(error))
        self._outage = describe_error(error)

    def _note_renewal(self) -> None:
        if self._outage is not None:
            log.info("leases can be renewed again")
            self._outage, self._usable_since = None, monotonic()

    @property
    def _is_settled(self) -> bool:
        """Whether a lease that was not renewed is free: after an outage, no holder could do it."""
        return monotonic() - self._usable_since > self._table.ttl * RETURN_SHARE

    async def _renew_membership(self, session: LogSession) -> None:
        moment = monotonic()
        if self._member_revision and moment - self._member_renewed < self._renew_interval:
            return

        def note(revision: int | None) -> None:
            self._member_revision, self._member_renewed = revision or 0, moment

        key, value = self.members.key, self.members.encode()
        await self._put(session, key, self._member_revision, note, value)
        if not self._member_revision:
            # It has expired, or is of the session before: no other process has this key.
            entry = self._table.get(key)
            await self._put(session, key, entry.revision if entry is not None else 0, note, value)

    async def _put(
        self,
        session: LogSession,
        key: str,
        known: int,
        note: Callable[[int | None], None],
        value: bytes = b"",
    ) -> None:
        """Put a value, by default the holder, and note its revision, also when cancelled: what
        releases it needs the revision."""
        putting = asyncio.ensure_future(session.leases.put(key, value or self._value, known))
        try:
            note(await asyncio.shield(putting))
            self._note_renewal()
        except asyncio.CancelledError:
            with contextlib.suppress(Unavailable, TimeoutError, OSError):
                note(await finish_within(RELEASE_TIMEOUT, putting))
            raise

    @property
    def _renew_interval(self) -> float:
        return self._table.ttl / RENEWALS

    async def _keep_lease(self, session: LogSession, lease: Lease) -> None:
        # The membership of a replica that was killed may expire later than its lease.
        members = self._table.members() - {self._table.find_expired_holder(lease.key)}
        members.add(self.replica)
        is_own = choose_member(lease.name, members) == self.replica
        moment = monotonic()
        if lease.revision:
            await self._keep_own(session, lease, is_own, moment)
        elif lease.is_wanted:
            entry = self._table.get(lease.key)
            if entry is None:
                if not self._is_settled:
                    return
                lease.free_since = lease.free_since or moment
                if is_own or moment - lease.free_since > GRACE:
                    await self._acquire(session, lease, 0, moment)
            elif entry.holder == self._holder:
                # Given up while NATS was away, and not taken by another replica since.
                await self._acquire(session, lease, entry.revision, moment)
            elif self._is_left_over(entry):
                await self._acquire(session, lease, entry.revision, moment)
            else:
                lease.free_since = None

    def _is_left_over(self, entry: Entry) -> bool:
        """Whether a lease was acquired by an earlier run of this replica, which has been killed."""
        return (
            entry.holder.replica == self.replica
            and self._is_settled
            and monotonic() - entry.seen > self._table.ttl * RESTART_SHARE
        )

    async def _keep_own(
        self, session: LogSession, lease: Lease, is_own: bool, moment: float
    ) -> None:
        if is_own:
            lease.misplaced_since = None
        else:
            lease.misplaced_since = lease.misplaced_since or moment
            if moment - lease.misplaced_since > SETTLE:
                lease.hand_over("the share of another replica; it moves there")
        entry = self._table.get(lease.key)
        if entry is not None and entry.revision > lease.revision and entry.holder != self._holder:
            lease.lose(f"replica {entry.holder.replica} has acquired it")
        elif moment - lease.renewed >= self._renew_interval:
            async with lease.lock:
                if lease.revision:
                    await self._renew(session, lease, moment)

    async def _renew(self, session: LogSession, lease: Lease, moment: float) -> None:
        def note(revision: int | None) -> None:
            if revision is not None and lease.revision:
                lease.revision, lease.renewed = revision, moment

        before = lease.revision
        await self._put(session, lease.key, before, note)
        if lease.revision != before:
            return
        # It has expired while the leases could not be reached, or a renewal was stored without an
        # answer. Where no other replica has it, the work continues; the log knows its token.
        entry = self._table.get(lease.key)
        is_own = entry is not None and entry.holder == self._holder
        known = entry.revision if entry is not None and is_own else 0
        await self._put(session, lease.key, known, note)
        if lease.revision == before:
            lease.lose("it expired and cannot be renewed")

    async def _acquire(self, session: LogSession, lease: Lease, known: int, moment: float) -> None:
        acquired = 0

        def note(revision: int | None) -> None:
            nonlocal acquired
            acquired = revision or 0

        try:
            await self._put(session, lease.key, known, note)
            if acquired:
                # Revisions start over when the leases are deleted; tokens must not.
                token = max(acquired, await self._bus.newest_token(lease.origin) + 1)
                lease.set(acquired, token, moment)
        except asyncio.CancelledError:
            # Nothing else releases it, and it would expire only after its time to live.
            await self._release_key(lease.key, acquired)
            raise

    async def _expire(self) -> None:
        """Give up leases that could not be renewed, whatever NATS does."""
        while True:
            await asyncio.sleep(EXPIRY_CHECK)
            own = self._table.ttl * OWN_SHARE
            for lease in self._leases.values():
                limit = max(own, OUTAGE) if lease.is_fenced else own
                if lease.revision and monotonic() - lease.renewed > limit:
                    seconds = f"it could not be renewed for {limit:g} s"
                    lease.lose(f"{seconds}: {self._outage}" if self._outage else seconds)
