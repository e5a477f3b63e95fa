"""Rules about the contract and the settings of a plugin."""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, get_args

import msgspec
import structlog

from almenara.config import Secret
from almenara.config.model import nested_structs
from almenara.config.reference import field_docs
from almenara.testing.rules.subject import Skip, Subject, let_run, memory_context
from almenara.testing.source_run import SourceRun

SECRET_NAMES: Final = ("password", "token", "secret", "api_key", "apikey", "private_key")
SENTINEL: Final = "s3ntinel-{number}-of-a-secret"


async def keeps_the_contract(subject: Subject) -> None:
    if not subject.plugins.infos()[0].hooks:
        raise AssertionError("it implements no hook; mark its functions with @almenara.hookimpl")
    subject.settings()


async def documents_its_settings(subject: Subject) -> None:
    for kind in _all_structs(subject):
        docs = field_docs(kind)
        for field in msgspec.structs.fields(kind):
            if not docs.get(field.name, "").strip():
                raise AssertionError(
                    f"{kind.__name__}.{field.name} is not documented; write a string under it that"
                    " says what it means, and in which unit"
                )
        if not kind.__struct_config__.forbid_unknown_fields:
            raise AssertionError(
                f"{kind.__name__} accepts misspelled settings; give it forbid_unknown_fields=True"
            )


async def types_its_settings(subject: Subject) -> None:
    for kind in _all_structs(subject):
        for field in msgspec.structs.fields(kind):
            if _contains(field.type, Any):
                raise AssertionError(
                    f"{kind.__name__}.{field.name} is Any; name its type, so that a wrong value is"
                    " refused at startup"
                )


async def keeps_secrets_as_secrets(subject: Subject) -> None:
    for kind in _all_structs(subject):
        for field in msgspec.structs.fields(kind):
            is_named_secret = any(word in field.name.lower() for word in SECRET_NAMES)
            if is_named_secret and _contains(field.type, str):
                raise AssertionError(
                    f"{kind.__name__}.{field.name} is named like a secret and is plain text; make"
                    " it almenara.config.Secret"
                )


async def shows_no_secret(subject: Subject) -> None:
    sentinels: list[str] = []
    tree = insert_sentinels(subject.settings_type(), subject.tree, sentinels)
    if not sentinels:
        raise Skip("it has no secret among its settings")
    settings = subject.settings(tree)
    outputs = [repr(settings), str(settings)]
    with capture_logs() as captured, memory_context() as context:
        runs = [SourceRun(source).start() for source in subject.create_sources(context, settings)]
        for run in runs:
            await let_run(run)
        for run in runs:
            await run.stop()
            outputs += [repr(run.bus.signals), *run.degraded_for]
            if run.task is not None and not run.task.cancelled():
                outputs.append(repr(run.task.exception()))
    outputs.append(captured.getvalue())
    for sentinel in sentinels:
        if any(sentinel in output for output in outputs):
            raise AssertionError(
                "a secret of its settings is in what it publishes, reports or logs; call reveal()"
                " only where the secret is used, and put no such value into a message"
            )


def _all_structs(subject: Subject) -> Iterator[type[msgspec.Struct]]:
    """The structs of its settings and of those of its notifiers. Raises `Skip` without any."""
    notifiers = [kind.settings for kind in subject.notifier_kinds()]
    own = [subject.settings_type()] if subject.has_settings or not notifiers else []
    for kind in (*own, *notifiers):
        yield from _walk_structs(kind)


def _walk_structs(kind: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    """A struct and every struct nested in its fields."""
    yield kind
    for field in msgspec.structs.fields(kind):
        for inner in nested_structs(field.type):
            yield from _walk_structs(inner)


def _contains(kind: Any, target: Any) -> bool:
    """Whether a type is `target`, or is composed of it."""
    return kind is target or any(_contains(part, target) for part in get_args(kind))


def insert_sentinels(kind: Any, tree: dict[str, Any], sentinels: list[str]) -> dict[str, Any]:
    """A copy of settings in which every secret is a recognizable value, added to `sentinels`."""
    filled = dict(tree)
    for field in msgspec.structs.fields(kind):
        name = field.encode_name
        if _contains(field.type, Secret):
            sentinels.append(SENTINEL.format(number=len(sentinels)))
            # A mapping of names to secrets is filled only where the configuration has names.
            if _contains(field.type, str) and isinstance(filled.get(name), dict):
                filled[name] = dict.fromkeys(filled[name], sentinels[-1])
            elif not _contains(field.type, str):
                filled[name] = sentinels[-1]
            continue
        for inner in nested_structs(field.type):
            value = filled.get(name)
            if isinstance(value, dict):
                filled[name] = insert_sentinels(inner, value, sentinels)
            elif isinstance(value, list):
                filled[name] = [
                    insert_sentinels(inner, entry, sentinels) if isinstance(entry, dict) else entry
                    for entry in value
                ]
    return filled


@contextmanager
def capture_logs() -> Iterator[io.StringIO]:
    """Everything that is logged inside the block, by structlog and by the standard library."""
    captured = io.StringIO()
    handler = logging.StreamHandler(captured)
    before = structlog.get_config()
    structlog.configure(
        processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer(str)],
        logger_factory=structlog.PrintLoggerFactory(captured),
        cache_logger_on_first_use=False,
    )
    logging.getLogger().addHandler(handler)
    try:
        yield captured
    finally:
        logging.getLogger().removeHandler(handler)
        structlog.configure(**before)
