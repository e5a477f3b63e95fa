"""Each rule of the kit finds the plugin that breaks it, and says what to do."""

import contextlib
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from almenara.hookspecs import Publish
from almenara.plugins import PluginError
from almenara.sdk import Snapshots, every, now
from almenara.signals import Event, Resource, Sample
from almenara.testing import ManualClock, SourceRun, render_panel
from almenara.testing.check import check
from almenara.testing.rules import RULES, examine

HEAD = """
import asyncio, logging, time
from typing import Any
from pathlib import Path
import almenara, msgspec
from almenara.hookspecs import *
from almenara.config import Secret
from almenara.signals import Event, Resource, Sample, now
from almenara.sdk import Snapshots, every

class Settings(msgspec.Struct, forbid_unknown_fields=True):
    password: Secret | None = None
    '''A password.'''
    system: str = ""
    '''A folder that exists while the system answers.'''

class Source:
    name = "mine"
    def __init__(self, settings, context):
        self.settings, self.context = settings, context
    async def run(self, publish):
        snapshots = Snapshots()
        await snapshots.restore(self.context, self.name)
        await publish(snapshots.difference([Resource(kind="k", name="n")]))
        await publish([Event(id="1", source="s", type="t", time=now(), subject="a", data={})])
        async for _ in every(0.05):
            if self.settings.system and not Path(self.settings.system).exists():
                await publish(snapshots.mark_unknown("no answer", now()))

class Pager:
    def __init__(self, settings): self.settings = settings
    async def notify(self, notification):
        await asyncio.sleep(0)
        return Delivery(reference="1")

def read(push):
    run = msgspec.json.decode(push.body, type=dict[str, str])
    return [Event(id=run["id"], source="s", type="t", time=push.received)] if "id" in run else []

intakes = [IntakeKind(name="runs", read=read)]

@almenara.hookimpl
def almenara_intakes(): return intakes

class Words:
    name, types = "words", ("word.*",)
    def accept(self, event): return [event]
    def read(self, data, filters): return []
    def listen(self, filters, listener): return lambda: None

@almenara.hookimpl
def almenara_text_streams(): return [Words()]
class Counter:
    subscription = Subscription(events=("orders.>",), resources=("pod",), samples=("cpu",))
    def on_signal(self, signal, step):
        count = (step.state.get("count", int) or 0) + 1
        step.state.set("count", count)
        step.set_timer("late", step.time + 60_000_000)
        yield Event(id=step.event_id(), source="counter", type="counted", time=step.time,
                    subject=str(count))
    def on_timer(self, key, step):
        yield Event(id=step.event_id(), source="counter", type="quiet", time=step.time)

@almenara.hookimpl
def almenara_processors(settings, context): return [Counter()]

kinds = [NotifierKind(name="pager", settings=Settings, create=Pager)]

@almenara.hookimpl
def almenara_notifiers(): return kinds

@almenara.hookimpl
def almenara_settings(): return Settings

@almenara.hookimpl
def almenara_sources(settings, context): return [Source(settings, context)]

@almenara.hookimpl
def almenara_panels():
    return [TablePanel(name="p", title="P", query=ResourceQuery(kind="k"),
                  columns=[Column(title="N", path="name"), Column(title="S", path="state.a.b")])]
"""

RECEIVERS: dict[str, Any] = {"pager": {}}

BREAKING: dict[str, tuple[str, str]] = {
    "keeps the contract": (
        "almenara_settings = almenara_sources = almenara_panels = almenara_notifiers = None\n"
        "almenara_intakes = almenara_text_streams = almenara_processors = None",
        "implements no hook"),
    "documents its settings": (
        "class Settings(msgspec.Struct, forbid_unknown_fields=True):\n    every: int = 3",
        "Settings.every is not documented; write a string under it"),
    "types its settings": (
        "class Settings(msgspec.Struct, forbid_unknown_fields=True):\n    every: Any = 3\n    'x'",
        "Settings.every is Any"),
    "keeps secrets as secrets": (
        "class Settings(msgspec.Struct, forbid_unknown_fields=True):\n"
        "    api_token: str = ''\n    'x'",
        "Settings.api_token is named like a secret and is plain text"),
    "names its sources": (
        "@almenara.hookimpl\ndef almenara_sources(settings, context):\n"
        "    return [Source(settings, context), Source(settings, context)]",
        "two of its sources are named"),
    "ends when cancelled": (
        "async def run(self, publish):\n"
        "    while True:\n"
        "        try: await asyncio.sleep(9)\n"
        "        except asyncio.CancelledError: pass\n"
        "Source.run = run",
        "did not end within 1 s"),
    "runs again on another event loop": (
        "async def run(self, publish):\n    await self.stopped.wait()\n"
        "Source.run, Source.stopped = run, asyncio.Event()",
        "when it was started again on another event loop; create events"),
    "does not block": (
        "async def run(self, publish):\n    time.sleep(0.9)\n    await asyncio.Event().wait()\n"
        "Source.run = run",
        "it blocked the event loop for more than 0.25 s at "),
    "keeps identity over restarts": (
        "async def run(self, publish):\n"
        "    await publish([Event(id=str(now()), source='s', type='t', time=now(), subject='a')])\n"
        "    await asyncio.Event().wait()\n"
        "Source.run = run",
        "after a restart it published t of a again with another id"),
    "restarts after a failure without repeats": (
        "async def run(self, publish):\n"
        "    number = int(await self.context.load('n') or 0) + 1\n"
        "    event = Event(id=str(number), source='s', type='t', time=now(), subject='a')\n"
        "    await self.context.save('n', str(number).encode())\n"
        "    await publish([event])\n"
        "    await asyncio.Event().wait()\n"
        "Source.run = run",
        "after a restart it published t of a again"),
    "deletes what disappeared while it was stopped": (
        "async def run(self, publish):\n"
        "    await publish([Resource(kind='k', name='n')])\n"
        "    await asyncio.Event().wait()\n"
        "Source.run = run",
        "a resource of kind k that disappeared while source mine was stopped"),
    "publishes again what another replica may have changed": (
        "async def run(self, publish):\n"
        "    self.snapshots = getattr(self, 'snapshots', None) or Snapshots()\n"
        "    await publish(self.snapshots.difference([Resource(kind='k', name='n')]))\n"
        "    await asyncio.Event().wait()\n"
        "Source.run = run",
        "a resource of kind k is not published again when source mine runs again"),
    "shows what is unreachable as unknown": (
        "async def run(self, publish):\n"
        "    await publish([Resource(kind='k', name='n', status='ok')])\n"
        "    await asyncio.Event().wait()\n"
        "Source.run = run",
        "after its system was stopped, k n is still ok; publish what Snapshots.mark_unknown"),
    "escapes what it renders": (
        "@almenara.hookimpl\ndef almenara_templates(): return {'p.html': '{{ resources[0]."
        "resource.name|safe }}'}\n"
        "@almenara.hookimpl\ndef almenara_panels():\n"
        "    return [TemplatePanel(name='p', title='P', template='p.html',"
        " query=ResourceQuery(kind='k'))]",
        "panel p does not escape what signals hold"),
    "shows no secret": (
        "async def run(self, publish):\n"
        "    logging.getLogger('x').warning('refused: %s', self.settings.password.reveal())\n"
        "    await asyncio.Event().wait()\n"
        "Source.run = run",
        "a secret of its settings is in what it publishes, reports or logs"),
    "refuses hostile pushes": (
        "def read(push): return [Event(id=msgspec.json.decode(push.body)['id'], source='s',"
        " type='t', time=1)]\nintakes[0] = IntakeKind(name='runs', read=read)",
        "intake runs raised TypeError"),
    "accepts hostile pieces of text": (
        "def accept(self, event): return [msgspec.json.decode(event.data)['word']]\n"
        "Words.accept = accept",
        "text stream words raised TypeError"),
    "names its processors": (
        "@almenara.hookimpl\ndef almenara_processors(settings, context):\n"
        "    return [Counter(), Counter()]",
        "two of its processors are named"),
    "derives the same wherever it is restarted": (
        "def on_signal(self, signal, step):\n"
        "    self.count = getattr(self, 'count', 0) + 1\n"
        "    yield Event(id=step.event_id(), source='c', type='t', time=step.time,"
        " subject=str(self.count))\n"
        "Counter.on_signal = on_signal",
        "keep what it remembers in step.state"),
    "derives the same of late and repeated signals": (
        "def on_signal(self, signal, step):\n"
        "    self.newest = max(getattr(self, 'newest', 0), step.time)\n"
        "    if self.newest > step.time:\n"
        "        yield Event(id=step.event_id(), source='c', type='late', time=step.time)\n"
        "Counter.on_signal = on_signal",
        "is not a function of the log"),
    "processes every signal": (
        "def on_signal(self, signal, step):\n"
        "    return [] if signal.data['value'] is None else []\n"
        "Counter.on_signal = on_signal",
        "signals have any data, also none"),
    "names its notifiers": ("kinds *= 2", "two of its notifiers are named 'pager'"),
    "delivers notifications": (
        "async def notify(self, notification): return 'sent'\nPager.notify = notify",
        "notify of pager must return almenara.hookspecs.Delivery; it returned str"),
    "ends deliveries when cancelled": (
        "async def notify(self, notification):\n"
        "    while True:\n"
        "        try: await asyncio.sleep(9)\n"
        "        except asyncio.CancelledError: pass\n"
        "Pager.notify = notify",
        "notify of pager did not end within 1 s of its cancellation"),
    "shows no secret in deliveries": (
        "async def notify(self, notification):\n"
        "    raise DeliveryError(f'refused: {self.settings.password.reveal()}')\n"
        "Pager.notify = notify",
        "a secret of the settings of pager is in an error or a log line"),
}  # fmt: skip


@contextlib.contextmanager
def system() -> Iterator[dict[str, Any]]:
    """The settings with a system that ends with the context."""
    with tempfile.TemporaryDirectory() as folder:
        yield {"system": folder}


@pytest.fixture
def plugin(tmp_path: Path) -> Callable[[str], str]:
    def write(more: str = "") -> str:
        path = tmp_path / "mine.py"
        path.write_text(HEAD + "\n" + textwrap.dedent(more) + "\n")
        return str(path)

    return write


@pytest.mark.parametrize("rule", list(RULES))
def test_good_plugin_passes_every_rule(plugin: Callable[[str], str], rule: str) -> None:
    result = examine(plugin(""), system, rule, RECEIVERS)
    assert (result.verdict, result.text) == ("passed", "")


def test_every_rule_has_a_breaking_plugin() -> None:
    assert set(BREAKING) == set(RULES)


@pytest.mark.parametrize("rule", list(RULES))
def test_rule_fails_for_the_breaking_plugin_with_remedy(
    plugin: Callable[[str], str], rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("almenara.testing.rules.silence.SILENCE_TIMEOUT", 0.5)
    code, reason = BREAKING[rule]
    settings = system if rule == "shows what is unreachable as unknown" else None
    result = examine(plugin(code), settings, rule, RECEIVERS)
    assert result.verdict == "failed"
    assert reason in result.text


def test_samples_of_an_unknown_resource_fail(plugin: Callable[[str], str]) -> None:
    code = (
        "async def run(self, publish):\n"
        "    snapshots = Snapshots()\n"
        "    await publish(snapshots.difference([Resource(kind='k', name='n', status='ok')]))\n"
        "    async for _ in every(0.05):\n"
        "        if not Path(self.settings.system).exists():\n"
        "            await publish(snapshots.mark_unknown('no answer'))\n"
        "        await publish([Sample(kind='k', name='n', metric='load', value=1.0)])\n"
        "Source.run = run"
    )
    rule = "shows what is unreachable as unknown"
    result = examine(plugin(code), system, rule)
    assert "it published load of k n, which is unknown" in result.text


def test_resources_may_stay_where_another_one_is_unknown(plugin: Callable[[str], str]) -> None:
    code = (
        "async def run(self, publish):\n"
        "    snapshots = Snapshots()\n"
        "    part = Resource(kind='k.part', name='n', status='ok')\n"
        "    await publish([*snapshots.difference([Resource(kind='k', name='n')]), part])\n"
        "    async for _ in every(0.05):\n"
        "        if not Path(self.settings.system).exists():\n"
        "            await publish(snapshots.mark_unknown('no answer'))\n"
        "Source.run = run"
    )
    rule = "shows what is unreachable as unknown"
    result = examine(plugin(code), system, rule, last_known={"k.*": "k"})
    assert (result.verdict, result.text) == ("passed", "")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("<p>\\n{{ 1 / 0 }}", "division by zero (mine/p.html, line 2)"),
        # The reason is read in a terminal: without entities of HTML.
        ("{{ nothing }}", "'nothing' is undefined"),
    ],
)
def test_unrenderable_panel_fails_with_its_line(
    plugin: Callable[[str], str], template: str, reason: str
) -> None:
    result = examine(
        plugin(
            "@almenara.hookimpl\n"
            f"def almenara_templates(): return {{'p.html': '{template}'}}\n"
            "@almenara.hookimpl\n"
            "def almenara_panels():\n"
            "    return [TemplatePanel(name='p', title='P', template='p.html',"
            " query=ResourceQuery(kind='k'))]"
        ),
        None,
        "escapes what it renders",
    )
    assert result.verdict == "failed"
    assert reason in result.text


class Counting:
    """Tells every minute what it counted."""

    def __init__(self) -> None:
        self.snapshots = Snapshots()

    async def run(self, publish: Publish) -> None:
        async for turn in every(60):
            await publish(
                [
                    *self.snapshots.difference([Resource(kind="k", name="it", status=str(turn))]),
                    Sample(kind="k", name="it", metric="turn", value=turn),
                    Event(id=str(turn), source="s", type="turn", time=now()),
                ]
            )


@pytest.mark.anyio
async def test_manual_clock_controls_a_source(
    manual_clock: ManualClock, run_source: Callable[[Any], SourceRun]
) -> None:
    async with run_source(Counting()) as run:
        await run.until(lambda: len(run.events) == 1)
        first = manual_clock.now()
        await manual_clock.advance(200)
        assert len(run.events) == 4
        assert run.resources["it"].status == "3"
        assert [each.value for each in run.samples] == [0, 1, 2, 3]
        assert 180_000_000 * 0.9 < run.events[-1].time - first < 180_000_000 * 1.1


@pytest.mark.anyio
async def test_memory_bus_counts_a_repeated_event_once() -> None:
    class Twice:
        async def run(self, publish: Publish) -> None:
            for _ in range(2):
                await publish([Event(id="1", source="s", type="t", time=now())])
            async for _ in every(1):
                pass

    async with SourceRun(Twice(), clock=ManualClock()) as run:
        await run.until(lambda: len(run.bus.repeats) == 1)
        assert len(run.events) == 1


@pytest.mark.anyio
async def test_render_panel_uses_given_signals(plugin: Callable[[str], str]) -> None:
    text = await render_panel(
        plugin(""), "p", [Resource(kind="k", name="<b>one</b>", state={"a": {"b": 12}})]
    )
    assert "&lt;b&gt;one&lt;/b&gt;" in text
    assert "12" in text


@pytest.mark.parametrize("plugin", ["absent", "absent.py"])
def test_plugin_that_does_not_exist_is_one_error(plugin: str) -> None:
    with pytest.raises(PluginError, match=plugin):
        check(plugin, {})
