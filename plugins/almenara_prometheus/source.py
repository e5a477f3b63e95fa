"""The source: every target scraped on its own."""

import asyncio
import ssl
from collections.abc import Sequence
from typing import Final

import httpx
import msgspec

from almenara.config import redact_secrets
from almenara.hookspecs import Context, Finding, Publish, SourceReport
from almenara.sdk import every, monotonic, now
from almenara.signals import Event, Resource, Sample, Severity, Signal
from almenara_prometheus.mapping import Mapper, Page, read_page, told
from almenara_prometheus.settings import PrometheusSettings, TargetSettings

KIND: Final = "prometheus.target"
AGENT: Final = "almenara-prometheus"
ACCEPT: Final = "text/plain;version=0.0.4;q=1,*/*;q=0.1"


class ScrapeError(Exception):
    """A page could not be had; the text says why."""


class State(msgspec.Struct):
    """What is known of a target."""

    status: str = ""
    since: int = 0
    """Microseconds since the epoch."""


class PrometheusSource:
    """Reads every page at its own pace; a slow one delays no other."""

    name = "prometheus"

    def __init__(self, settings: PrometheusSettings, context: Context) -> None:
        self.settings, self.context = settings, context

    async def run(self, publish: Publish, report: SourceReport) -> None:
        """Scrape until cancelled."""
        report.recovered()
        seen: dict[str, set[tuple[str, str]]] = {it.name: set() for it in self.settings.targets}
        left: list[Signal] = []
        for kind, namespace, name in await self.context.known_resources(self.name):
            if (name if kind == KIND else namespace) not in seen:
                left.append(Resource(kind=kind, namespace=namespace, name=name, deleted=True))
            elif kind != KIND:
                seen[namespace].add((kind, name))
        await publish(left)
        async with asyncio.TaskGroup() as group:
            for target in self.settings.targets:
                group.create_task(follow(target, publish, self.context, seen[target.name]))


async def follow(
    target: TargetSettings, publish: Publish, context: Context, seen: set[tuple[str, str]]
) -> None:
    """Scrape one target until cancelled; `seen` are the resources that were told of it before."""
    mapper, state = Mapper(target.name, target.mappings), await load(target, context)
    session: httpx.AsyncClient | None = None
    try:
        async for _ in every(target.every):
            began, before = monotonic(), state.status
            try:
                session = session or client(target)
                page = read_page(await scrape(session, target))
            except ScrapeError as error:
                if session is not None:
                    # The next one reads the file of `ca` again, which may be another by then.
                    await session.aclose()
                    session = None
                await publish([*change(target, state, "down", str(error))])
            else:
                await publish(signals(target, state, mapper, page, seen, began))
            if state.status != before:
                await context.save(target.name, msgspec.json.encode(state))
    finally:
        if session is not None:
            await session.aclose()


async def load(target: TargetSettings, context: Context) -> State:
    """What is known of a target from an earlier run."""
    stored = await context.load(target.name)
    try:
        return msgspec.json.decode(stored, type=State) if stored else State()
    except msgspec.MsgspecError:
        return State()


def client(target: TargetSettings) -> httpx.AsyncClient:
    """A client for one target. Raises `ScrapeError` where its CA file cannot be read."""
    verify: ssl.SSLContext | bool = True
    if target.ca is not None:
        try:
            verify = ssl.create_default_context(cafile=str(target.ca))
        except (OSError, ValueError) as error:
            raise ScrapeError(f"the file {target.ca} (ca) cannot be read: {error}") from None
    return httpx.AsyncClient(
        verify=verify, timeout=target.timeout, follow_redirects=False, trust_env=False
    )


async def scrape(session: httpx.AsyncClient, target: TargetSettings) -> bytes:
    """A page. Raises `ScrapeError`."""
    try:
        async with asyncio.timeout(target.timeout):
            return await _page(session, target)
    except ScrapeError:
        raise
    except (TimeoutError, httpx.TimeoutException):
        raise ScrapeError(f"no whole page within {target.timeout:g} s") from None
    except Exception as error:
        # What a server makes the client run into is not known beforehand; whatever it is, it is
        # this target that is down and no other.
        text = " ".join(str(error).split()) or type(error).__name__
        secrets = (target.bearer, *target.headers.values())
        raise ScrapeError(redact_secrets(text, secrets)[:300]) from None


async def _page(session: httpx.AsyncClient, target: TargetSettings) -> bytes:
    # The limit is on what is read, and a small page must not unfold into a large one.
    headers = httpx.Headers({"accept-encoding": "identity", "user-agent": AGENT, "accept": ACCEPT})
    headers.update({it.encode(): value.reveal().encode() for it, value in target.headers.items()})
    if target.bearer is not None:
        headers.update({b"authorization": f"Bearer {target.bearer.reveal()}".encode()})
    parts: list[bytes] = []
    size = 0
    async with session.stream("GET", target.url, headers=headers) as answer:
        if answer.status_code != 200:
            raise ScrapeError(f"it answers {answer.status_code}, expected 200")
        if answer.headers.get("content-encoding", "identity") != "identity":
            raise ScrapeError("its page is compressed, which it was asked not to be")
        async for part in answer.aiter_bytes():
            size += len(part)
            if size > target.body_limit:
                raise ScrapeError(
                    f"its page is longer than {target.body_limit:,} bytes (body_limit)"
                )
            parts.append(part)
    return b"".join(parts)


def signals(
    target: TargetSettings,
    state: State,
    mapper: Mapper,
    page: Page,
    seen: set[tuple[str, str]],
    began: float,
) -> Sequence[Signal]:
    """What a page says; `seen` are the resources it has become, kept up to date."""
    readings = mapper.map(page, began)
    names = sorted({(it.mapping.kind, it.name) for it in readings})
    kept = set(names[: target.series_limit])
    reason = ""
    if page.problems:
        reason = f"{len(page.problems)} lines of its page {told(page.problems)}"
    elif len(names) > len(kept):
        reason = (
            f"its page became {len(names):,} resources, of which {len(kept):,} are kept"
            " (series_limit); name fewer labels, or filter by them"
        )
    elif not page.series:
        reason = "its page holds no metrics"
    status = "partial" if reason else "up"
    found: list[Signal] = [*change(target, state, status, reason)]
    found += _target_samples(target, len(page.series), monotonic() - began)
    found += [
        Resource(kind=kind, name=name, namespace=target.name, status="scraped")
        for kind, name in sorted(kept - seen)
    ]
    beyond = set(names[target.series_limit :])
    gone = {it for it in seen if it in beyond or not mapper.holds(*it)}
    found += [
        Resource(kind=kind, name=name, namespace=target.name, deleted=True)
        for kind, name in sorted(gone)
    ]
    seen |= kept
    seen -= gone
    return found + [
        Sample(
            kind=it.mapping.kind, name=it.name, namespace=target.name,
            metric=it.mapping.sample, value=it.value, unit=it.mapping.unit,
        )
        for it in readings
        if (it.mapping.kind, it.name) in kept
    ]  # fmt: skip


def _target_samples(target: TargetSettings, series: int, seconds: float) -> list[Signal]:
    return [
        Sample(kind=KIND, name=target.name, metric="up", value=1.0),
        Sample(kind=KIND, name=target.name, metric="scrape_duration", value=seconds, unit="s"),
        Sample(kind=KIND, name=target.name, metric="series", value=float(series)),
    ]


SEVERITIES: Final = {"up": Severity.INFO, "partial": Severity.WARN, "down": Severity.ERROR}


def change(target: TargetSettings, state: State, status: str, reason: str) -> Sequence[Signal]:
    """The target as it is now, and an event where it is not what it was."""
    before = msgspec.structs.replace(state)
    found: list[Signal] = []
    if status != state.status:
        state.status, state.since = status, now()
        if before.status or status != "up":
            found.append(
                Event(
                    id=f"{target.name}/{before.status}/{before.since}/{status}",
                    source=f"prometheus/{target.name}",
                    type=f"{KIND}.{status}",
                    subject=target.name,
                    time=state.since,
                    severity=SEVERITIES[status],
                    data={"url": target.url, "reason": reason or "its page is read again"},
                )
            )
    resource = Resource(
        kind=KIND,
        name=target.name,
        status=status,
        severity=SEVERITIES[status],
        state={"url": target.url, "reason": reason or None, "since": state.since},
    )
    if status == "down":
        found.append(Sample(kind=KIND, name=target.name, metric="up", value=0.0))
    return [resource, *found]


async def diagnose(settings: PrometheusSettings) -> Sequence[Finding]:
    """What `almenara doctor` says of each target."""

    async def look(target: TargetSettings) -> Finding:
        what = f"metrics of {target.name}"
        try:
            async with client(target) as session:
                page = read_page(await scrape(session, target))
        except ScrapeError as error:
            return Finding(
                check=what, verdict="failed", message=f"{target.url}: {error}",
                remedy="Look at the server, or at url, bearer and headers of the target.",
            )  # fmt: skip
        if page.problems:
            return Finding(
                check=what, verdict="warning", message=f"{target.url} {told(page.problems)}",
                remedy="Tell who made the page.",
            )  # fmt: skip
        return Finding(check=what, verdict="ok", message=f"{len(page.series)} series")

    return await asyncio.gather(*(look(target) for target in settings.targets))
