"""The rules of a good plugin, and how each is looked at."""

import asyncio
import contextlib
import gc
import io
import logging
import re
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final, Literal, get_args

import msgspec
import structlog

from almenara.config import ConfigError, Secret
from almenara.config.reference import field_docs, nested_structs
from almenara.errors import describe_error
from almenara.hookspecs import Column, EventQuery, LogQuery, Panel, SampleQuery
from almenara.plugins import PluginError, PluginRegistry, find_plugin
from almenara.signals import Event, Resource, Sample, Severity, Signal, now
from almenara.supervisor.watchdog import Heartbeat
from almenara.testing.rendering import draw
from almenara.testing.running import MemoryContext, SourceRun

Settings = Mapping[str, Any] | Callable[[], AbstractContextManager[Mapping[str, Any]]]
Verdict = Literal["passed", "skipped", "failed"]

WATCHED: Final = 1.5
"""Seconds a source is run for at most, real ones, while it is looked at."""
BLOCKED: Final = 0.25
LOOKED_EVERY: Final = 0.02
LEFTOVERS: Final = 1.0
SECRET_NAMES: Final = ("password", "token", "secret", "api_key", "apikey", "private_key")
SENTINEL: Final = "s3ntinel-{number}-of-a-secret"
HOSTILE: Final = "<script>alert('x')</script>\"'><img src=x onerror=alert(1)>"


class Result(msgspec.Struct, frozen=True):
    """What a rule says."""

    rule: str
    verdict: Verdict
    text: str = ""


class Subject:
    """A plugin that is looked at."""

    def __init__(self, plugin: str, tree: Mapping[str, Any]) -> None:
        self.tree = dict(tree)
        found = find_plugin(plugin)
        self.name = found.name
        self.plugins = PluginRegistry()
        self.plugins.load(found)
        if self.name not in self.plugins.modules:
            known = self.plugins.infos()
            raise PluginError(known[0].error if known and known[0].error else "it cannot be loaded")

    def settings(self, tree: Mapping[str, Any] | None = None) -> Any:
        """Its settings. Raises `ConfigError`."""
        return self.plugins.decode_settings(self.name, self.tree if tree is None else tree)

    def sources(self, context: MemoryContext, settings: Any = None) -> list[Any]:
        """Its sources, made anew."""
        chosen = self.settings() if settings is None else settings
        return self.plugins.hooks.sources(self.name, chosen, context)


def examine(plugin: str, settings: Settings | None, rule: str) -> Result:
    """Hold a plugin against one rule. An error of the plugin is what the rule failed by."""
    prepared = settings() if callable(settings) else contextlib.nullcontext(settings or {})
    verdict: Verdict
    with prepared as tree:
        try:
            subject = Subject(plugin, tree)
            verdict, text = _run(RULES[rule](subject))
        except Skip as reason:
            return Result(rule, "skipped", str(reason))
        except (AssertionError, ConfigError, PluginError) as error:
            return Result(rule, "failed", str(error))
        except Exception as error:
            return Result(rule, "failed", f"it raised {describe_error(error, with_type=True)}")
    return Result(rule, verdict, text)


def _run(look: Coroutine[Any, Any, "Said"]) -> "Said":
    """As `asyncio.run`, but for a source that does not end, which that would wait for."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(look)
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=LEFTOVERS))
        for task in asyncio.all_tasks(loop):
            # Told by the rule already; nobody needs to be told again when it is collected.
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.close()


class Skip(Exception):  # noqa: N818
    """The rule has nothing to look at."""


Said = tuple[Verdict, str]
PASSED: Final[Said] = ("passed", "")


async def keeps_the_contract(subject: Subject) -> Said:
    if not subject.plugins.infos()[0].hooks:
        raise AssertionError("it implements no hook; mark its functions with @almenara.hookimpl")
    subject.settings()
    return PASSED


def _structs(kind: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    yield kind
    for field in msgspec.structs.fields(kind):
        for inner in nested_structs(field.type):
            yield from _structs(inner)


def _settings_type(subject: Subject) -> type[msgspec.Struct]:
    kind = subject.plugins.hooks.settings_type(subject.name)
    if kind is None:
        raise Skip("it has no settings")
    return kind


async def documents_its_settings(subject: Subject) -> Said:
    for kind in _structs(_settings_type(subject)):
        told = field_docs(kind)
        for field in msgspec.structs.fields(kind):
            where = f"{kind.__name__}.{field.name}"
            if not told.get(field.name, "").strip():
                raise AssertionError(
                    f"{where} is not documented; write a string under it that says what it means,"
                    " and in which unit"
                )
        if not kind.__struct_config__.forbid_unknown_fields:
            raise AssertionError(
                f"{kind.__name__} lets misspelt settings pass; give it forbid_unknown_fields=True"
            )
    return PASSED


def _mentions(kind: Any, wanted: Any) -> bool:
    return kind is wanted or any(_mentions(part, wanted) for part in get_args(kind))


async def types_its_settings(subject: Subject) -> Said:
    for kind in _structs(_settings_type(subject)):
        for field in msgspec.structs.fields(kind):
            if _mentions(field.type, Any):
                raise AssertionError(
                    f"{kind.__name__}.{field.name} is Any; name its type, so that a wrong value is"
                    " refused at the start"
                )
    return PASSED


async def keeps_secrets_as_secrets(subject: Subject) -> Said:
    for kind in _structs(_settings_type(subject)):
        for field in msgspec.structs.fields(kind):
            secret = any(word in field.name.lower() for word in SECRET_NAMES)
            if secret and _mentions(field.type, str):
                raise AssertionError(
                    f"{kind.__name__}.{field.name} sounds like a secret and is a plain text; make"
                    " it almenara.config.Secret"
                )
    return PASSED


async def names_its_sources(subject: Subject) -> Said:
    with _context() as context:
        sources = subject.sources(context)
    if not sources:
        raise Skip("it has no source with these settings")
    names = [getattr(it, "name", "") or subject.name for it in sources]
    for name in names:
        if names.count(name) > 1:
            raise AssertionError(f"two of its sources are named {name!r}; names must differ")
    return PASSED


@contextlib.contextmanager
def _context() -> Iterator[MemoryContext]:
    with tempfile.TemporaryDirectory() as folder:
        yield MemoryContext(Path(folder))


def _watched(subject: Subject, context: MemoryContext, settings: Any = None) -> list[Any]:
    sources = subject.sources(context, settings)
    if not sources:
        raise Skip("it has no source with these settings")
    return sources


async def _let_run(run: SourceRun, patience: float = WATCHED) -> None:
    """Let a source run until it has published an event, or for a while."""
    end = time.monotonic() + patience
    while time.monotonic() < end and run.task is not None and not run.task.done():
        if run.events and time.monotonic() > end - patience / 2:
            return
        await asyncio.sleep(0.01)


async def ends_when_cancelled(subject: Subject) -> Said:
    with _context() as context:
        for source in _watched(subject, context):
            run = SourceRun(source, bus=context.bus).start()
            await _let_run(run, WATCHED / 2)
            if run.task is not None and run.task.done() and not run.task.cancelled():
                if (error := run.task.exception()) is not None:
                    raise AssertionError(
                        f"its run() raised {describe_error(error, with_type=True)}"
                    )
                raise AssertionError("its run() returned; it must go on until it is cancelled")
            left = await run.stop()
            if left:
                raise AssertionError(
                    f"it left tasks behind: {', '.join(left)}; start tasks in an asyncio.TaskGroup"
                )
    return PASSED


async def does_not_block(subject: Subject) -> Said:
    heartbeat = Heartbeat()
    found: list[str] = []
    ended = threading.Event()

    def watch() -> None:
        began = time.monotonic()
        while not ended.wait(LOOKED_EVERY):
            # A machine that is busy with other things is late for this thread as well.
            late = time.monotonic() - began - LOOKED_EVERY
            began = time.monotonic()
            if heartbeat.blocked_for() - late > BLOCKED and not found:
                found.extend(heartbeat.stack() or ["code that is not Python"])

    with _context() as context:
        sources = _watched(subject, context)
        # What the tests before have left would be gone through while the source is watched, which
        # takes longer in a large suite than a source may block.
        gc.collect()
        gc.freeze()
        heartbeat.start(count_tasks=False)
        watching = threading.Thread(target=watch, daemon=True)
        watching.start()
        runs = [SourceRun(source, bus=context.bus).start() for source in sources]
        try:
            await asyncio.sleep(WATCHED)
            for run in runs:
                await run.stop()
        finally:
            heartbeat.stop()
            gc.unfreeze()
            ended.set()
            watching.join()
    if found:
        raise AssertionError(
            f"it blocked the event loop for more than {BLOCKED:g} s at {found[-1]}; put what"
            " blocks into almenara.sdk.blocking or BlockingClient"
        )
    return PASSED


def _content(event: Event) -> tuple[str, str, bytes]:
    return event.type, event.subject, msgspec.json.encode(event.data, enc_hook=str)


class _Failing(SourceRun):
    """A run in which the bus goes away once, after it took the first event."""

    failed = False

    async def publish(self, batch: Sequence[Signal]) -> None:
        await super().publish(batch)
        if not self.failed and any(isinstance(it, Event) for it in batch):
            self.failed = True
            raise ConnectionError("the bus went away, for a test")


async def _twice(subject: Subject, *, failing: bool) -> Said:
    """Run the sources twice on the same bus and state, and compare what they say."""
    with _context() as context:
        bus = context.bus
        for source in _watched(subject, context):
            run = (_Failing if failing else SourceRun)(source, bus=bus).start()
            await _let_run(run)
            if run.task is not None and not run.task.done():
                await run.stop()
            elif run.task is not None:
                run.task.exception()
        first = [it for it in bus.signals if isinstance(it, Event)]
        told = len(bus.signals)
        for source in _watched(subject, context):
            run = SourceRun(source, bus=bus).start()
            await _let_run(run)
            await run.stop()
    if not first:
        raise Skip("it published no event while it was looked at")
    contents = [_content(it) for it in first]
    # What is said again and again in one run is news each time, such as a heartbeat.
    once = {it for it in contents if contents.count(it) == 1}
    for signal in bus.signals[told:]:
        if isinstance(signal, Event) and _content(signal) in once:
            raise AssertionError(
                f"after a restart it told {signal.type} of {signal.subject or 'nothing'} again with"
                f" another id ({signal.id!r}); make the id of what happened, not of when it was"
                " seen, or remember with context.save what was told"
            )
    return PASSED


async def keeps_identity_over_restarts(subject: Subject) -> Said:
    return await _twice(subject, failing=False)


async def restarts_after_a_failure_without_repeats(subject: Subject) -> Said:
    return await _twice(subject, failing=True)


def _hostile(panel: Panel) -> list[Signal]:
    query: Any = getattr(panel, "query", None)
    columns: Sequence[Column] = getattr(panel, "columns", ())
    if isinstance(query, EventQuery):
        kind = str(query.filter.get("type", HOSTILE)).replace("*", "x").replace(">", "x")
        return [
            Event(
                id="1",
                source=HOSTILE,
                type=kind,
                subject=HOSTILE,
                time=now(),
                severity=Severity[str(query.filter.get("severity", "ERROR"))],
                data={HOSTILE: HOSTILE},
            )
        ]
    if isinstance(query, LogQuery):
        # Its lines are drawn by a template of the platform's own.
        return []
    kind = query.kind.replace("*", "x").replace(">", "x")
    state: dict[str, Any] = {}
    for column in columns:
        place = state
        *above, last = column.path.removeprefix("state.").split(".")
        if column.path.startswith("state."):
            for part in above:
                place = place.setdefault(part, {})
            place[last] = HOSTILE
    name = query.name.replace("*", "x").replace(">", "x") or HOSTILE
    named: dict[str, Any] = {
        "kind": kind,
        "name": name,
        "namespace": query.namespace.replace("*", "x") or HOSTILE,
    }
    metrics = {query.metric} if isinstance(query, SampleQuery) else set()
    for column in columns:
        metrics |= {column.path.removeprefix("sample.")} if "sample." in column.path else set()
        metrics |= {column.spark} if column.spark else set()
    return [
        Resource(**named, status=HOSTILE, state=state or {"text": HOSTILE}),
        *(
            Sample(**named, metric=metric, value=float(value), unit=HOSTILE, time=now() + value)
            for metric in sorted(metrics)
            for value in range(3)
        ),
    ]


async def escapes_what_it_draws(subject: Subject) -> Said:
    settings = subject.settings()
    panels = subject.plugins.hooks.panels(subject.name, settings)
    if not panels:
        raise Skip("it has no panel with these settings")
    templates = subject.plugins.hooks.templates(subject.name)
    pages = subject.plugins.hooks.pages(subject.name, settings)
    for panel in panels:
        drawn = await draw(
            subject.name, panels, templates, _hostile(panel), pages=pages, only=panel.name
        )
        text = drawn[f"{subject.name}.{panel.name}"]
        if 'class="broken-panel"' in text:
            raise AssertionError(f"the panel {panel.name} cannot be drawn: {_words(text)}")
        if "<script>alert" in text or "<img src=x" in text:
            raise AssertionError(
                f"the panel {panel.name} prints what it is given without escaping it; do not use"
                " the filter safe on signals"
            )
    return PASSED


def _words(text: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", text).split())


def _with_sentinels(kind: Any, tree: dict[str, Any], made: list[str]) -> dict[str, Any]:
    """Settings in which every secret is one that can be recognised."""
    filled = dict(tree)
    for field in msgspec.structs.fields(kind):
        name = field.encode_name
        if _mentions(field.type, Secret):
            made.append(SENTINEL.format(number=len(made)))
            if _mentions(field.type, str) and isinstance(filled.get(name), dict):
                filled[name] = dict.fromkeys(filled[name], made[-1])
            elif not _mentions(field.type, str):
                filled[name] = made[-1]
            continue
        for inner in nested_structs(field.type):
            value = filled.get(name)
            if isinstance(value, dict):
                filled[name] = _with_sentinels(inner, value, made)
            elif isinstance(value, list):
                filled[name] = [
                    _with_sentinels(inner, it, made) if isinstance(it, dict) else it for it in value
                ]
    return filled


async def shows_no_secret(subject: Subject) -> Said:
    kind = _settings_type(subject)
    made: list[str] = []
    tree = _with_sentinels(kind, subject.tree, made)
    if not made:
        raise Skip("it has no secret among its settings")
    settings = subject.settings(tree)
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    before = structlog.get_config()
    structlog.configure(
        processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer(str)],
        logger_factory=structlog.PrintLoggerFactory(written),
        cache_logger_on_first_use=False,
    )
    logging.getLogger().addHandler(handler)
    said = [repr(settings), str(settings)]
    try:
        with _context() as context:
            runs = [SourceRun(it).start() for it in subject.sources(context, settings)]
            for run in runs:
                await _let_run(run)
            for run in runs:
                await run.stop()
                said += [repr(run.bus.signals), *run.degraded_for]
                if run.task is not None and not run.task.cancelled():
                    said.append(repr(run.task.exception()))
    finally:
        logging.getLogger().removeHandler(handler)
        structlog.configure(**before)
    said.append(written.getvalue())
    for sentinel in made:
        if any(sentinel in text for text in said):
            raise AssertionError(
                "a secret of its settings is in what it publishes, reports or logs; call reveal()"
                " only where the secret is used, and put no such value into a message"
            )
    return PASSED


RULES: Final[dict[str, Callable[[Subject], Coroutine[Any, Any, Said]]]] = {
    "keeps the contract": keeps_the_contract,
    "documents its settings": documents_its_settings,
    "types its settings": types_its_settings,
    "keeps secrets as secrets": keeps_secrets_as_secrets,
    "names its sources": names_its_sources,
    "ends when cancelled": ends_when_cancelled,
    "does not block": does_not_block,
    "keeps identity over restarts": keeps_identity_over_restarts,
    "restarts after a failure without repeats": restarts_after_a_failure_without_repeats,
    "escapes what it draws": escapes_what_it_draws,
    "shows no secret": shows_no_secret,
}
"""By the sentence that says what a plugin that keeps the rule does."""
