"""The evaluation is a function of the log: restarts anywhere change nothing."""

import random

import msgspec

from almenara.alerting.commands import Silence, make_started
from almenara.alerting.evaluator import Evaluator
from almenara.alerting.rules import compile_rules
from almenara.hookspecs import ResourceLink
from almenara.signals import Event, Resource, Sample, Signal
from almenara.testing import check_processor
from support.alerting import START, failure, pod, read_alerting, sample, source

RULES = """
rules:
- name: crashing
  when: {resource: {kind: pod, status: [CrashLoop*]}}
  for: 20
  keep_firing_for: 10
- {name: unready, when: {resource: {kind: pod, severity: ERROR}}}
- {name: failed, when: {events: {types: [app.failed], count: 3, within: 30}}}
- {name: hot, when: {sample: {metric: cpu, aggregation: avg, within: 40, above: 0.5, no_data: 60}}}
- {name: any-hot, when: {sample: {metric: cpu, above: 0.7, no_data: 60}}, group_by: [kind]}
- {name: team, when: {resource: {kind: pod, status: [Crash*]}}, group_by: [label.team]}
- {name: quiet, when: {absent: {types: [app.*], within: 45}}}
- {name: source-blind, when: {resource: {kind: almenara.source, status: [degraded]}}, for: 10}
inhibit: [{source: [rule=quiet], target: [rule=hot]}]
flapping: {fires: 3, within: 200, settle: 60}
"""


def make_log(seed: int, length: int) -> list[Signal | float]:
    """Random signals over some minutes, and seconds that pass."""
    chance = random.Random(seed)
    now = 0.0
    signals: list[Signal | float] = [msgspec.structs.replace(make_started(), time=START)]
    silence = Silence(
        id="s", matchers=["name=p1"], author="a", comment="c", starts=START + 60_000_000,
        ends=START + 120_000_000,
    )  # fmt: skip
    signals.append(
        Event(
            id="silence",
            source="almenara.alerting",
            type="almenara.alerting.silence",
            time=START,
            data=silence_data(silence),
            origin="almenara.alerting",
        )
    )
    makers = [
        lambda: pod(f"p{chance.randrange(3)}", chance.choice(["Running", "CrashLoopBackOff"])),
        lambda: failure(chance.choice("ab")),
        lambda: sample(chance.random(), chance.choice("xy")),
        lambda: pod(f"p{chance.randrange(3)}", "Crash", state={"labels": {"team": "a"}}),
        lambda: pod(f"p{chance.randrange(3)}", deleted=True),
        lambda: Resource(
            kind="node", name=chance.choice("xy"), origin="source", time=START, deleted=True
        ),
        lambda: source("kube", chance.choice(["running", "degraded"])),
    ]
    for _ in range(length):
        if chance.random() < 0.4:
            seconds = chance.choice([1.0, 5.0, 20.0])
            now += seconds
            signals.append(seconds)
            continue
        signal = chance.choice(makers)()
        late = chance.choice([0.0, 0.0, 3.0])
        time = START + int((now - late) * 1_000_000)
        fields = {name: getattr(signal, name) for name in signal.__struct_fields__}
        if isinstance(signal, Event):
            fields["id"] = f"e{len(signals)}"
        signals.append(type(signal)(**{**fields, "time": time}))
    return signals


def silence_data(silence: Silence) -> dict[str, object]:
    return {name: getattr(silence, name) for name in silence.__struct_fields__}


def test_restarts_anywhere_derive_the_same_alerts() -> None:
    link = ResourceLink(kind="pod", parent="node", name="node")
    rules = compile_rules(read_alerting(RULES), {}, (link,))
    for seed in range(3):
        log = make_log(seed, 40)
        assert any(isinstance(each, Resource) for each in log)
        assert any(isinstance(each, Sample) for each in log)
        check_processor(lambda: Evaluator(rules), log)
