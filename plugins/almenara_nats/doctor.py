"""What `almenara doctor` says about NATS."""

import time
from collections.abc import Sequence

from nats.errors import Error as NatsError
from nats.js.api import RetentionPolicy, StreamInfo
from nats.js.errors import APIError, NotFoundError
from nats.js.errors import Error as JetStreamError

from almenara.hookspecs import Finding
from almenara_nats.client import Connection, NatsUnavailableError, connected, sentence
from almenara_nats.settings import NatsSettings
from almenara_nats.source import HIDDEN, all_streams

SCARCE = 0.9
SLOW = 0.25


async def diagnose(settings: NatsSettings) -> Sequence[Finding]:
    """Findings on the connection, the account, the streams and our consumers."""
    try:
        async with connected(settings) as connection:
            findings = [await _connection(connection)]
            try:
                findings += await _account(connection)
                findings += await _streams(connection, settings)
            except (APIError, NatsError, JetStreamError, TimeoutError) as error:
                findings.append(
                    Finding(
                        check="JetStream",
                        verdict="failed",
                        message=f"it does not answer: {sentence(error)}",
                        remedy="Enable JetStream on the server and for this account.",
                    )
                )
            return findings
    except NatsUnavailableError as error:
        return [
            Finding(
                check="NATS connection",
                verdict="failed",
                message=str(error),
                remedy="Nothing else of NATS could be checked.",
            )
        ]


async def _connection(connection: Connection) -> Finding:
    start = time.perf_counter()
    await connection.flush()
    took = time.perf_counter() - start
    info = connection._server_info
    found = f"nats-server {info.get('version')} answers in {took * 1000:.1f} ms"
    if took > SLOW:
        return Finding(
            check="NATS connection",
            verdict="warning",
            message=found,
            remedy="Look at the network between here and there, and at the server's load.",
        )
    return Finding(check="NATS connection", verdict="ok", message=found)


async def _account(connection: Connection) -> list[Finding]:
    info = await connection.jetstream().account_info()
    findings = []
    for name, used, limit in (
        ("file storage", info.storage, info.limits.max_storage),
        ("memory storage", info.memory, info.limits.max_memory),
        ("streams", info.streams, info.limits.max_streams),
        ("consumers", info.consumers, info.limits.max_consumers),
    ):
        if limit is None or limit < 0:
            found, verdict = f"{used:,} used, no limit", "ok"
        else:
            found = f"{used:,} of {limit:,} used"
            verdict = "warning" if used >= limit * SCARCE else "ok"
        findings.append(
            Finding(
                check=f"account limit: {name}",
                verdict="warning" if verdict == "warning" else "ok",
                message=found,
                remedy="Raise the limit of the account." if verdict == "warning" else "",
            )
        )
    return findings


async def _streams(connection: Connection, settings: NatsSettings) -> list[Finding]:
    there = {it.config.name or "": it for it in await all_streams(connection)}
    findings = [
        Finding(
            check=f"stream {name}",
            verdict="failed",
            message="it does not exist",
            remedy="Create it with `almenara streams apply`, or correct plugins.nats.streams.",
        )
        for name in settings.streams
        if name not in there
    ]
    for wanted in settings.apply:
        info = there.get(wanted.name)
        if info is None or sorted(info.config.subjects or []) != sorted(wanted.subjects):
            findings.append(
                Finding(
                    check=f"stream {wanted.name}",
                    verdict="warning",
                    message="it is not as configured",
                    remedy="Run `almenara streams apply`.",
                )
            )
    if not there:
        findings.append(
            Finding(
                check="streams",
                verdict="warning",
                message="the account has none",
                remedy="Configure some under plugins.nats.apply and run `almenara streams apply`.",
            )
        )
    for name, info in there.items():
        if (settings.streams and name not in settings.streams) or name.startswith(HIDDEN):
            continue
        findings.append(await _stream(connection, name, info, settings))
    return findings


async def _stream(
    connection: Connection, name: str, info: StreamInfo, settings: NatsSettings
) -> Finding:
    subjects = ", ".join(info.config.subjects or [])
    found = f"{info.state.messages:,} messages on {subjects or 'no subject'}"
    if info.config.retention == RetentionPolicy.WORK_QUEUE and name not in settings.streams:
        return Finding(
            check=f"stream {name}",
            verdict="ok",
            message=f"{found}; a work queue, whose messages are left to its workers",
        )
    try:
        consumer = await connection.jetstream().consumer_info(name, settings.durable)
    except NotFoundError:
        return Finding(
            check=f"stream {name}",
            verdict="ok",
            message=f"{found}; not read yet",
        )
    return Finding(
        check=f"stream {name}",
        verdict="ok",
        message=f"{found}; {consumer.num_pending or 0:,} not read yet",
    )
