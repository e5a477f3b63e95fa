"""A plugin whose pods and requests fail now and then, for tests of alerts."""

PLUGIN = """
import itertools
import random

import almenara
from almenara.sdk import now, sleep
from almenara.signals import Event, Resource, Sample, Severity


class Flaky:
    name = "flaky"

    def __init__(self, context):
        self.context = context

    async def run(self, publish):
        start = int(await self.context.load("next") or b"0")
        for number in itertools.count(start):
            chance = random.Random(number)
            is_failing = chance.random() < 0.4
            await publish([
                Resource(
                    kind="pod", namespace="prod", name=f"pod-{number % 5}",
                    status="CrashLoopBackOff" if is_failing else "Running",
                    severity=Severity.ERROR if is_failing else Severity.INFO,
                ),
                Event(
                    id=str(number), source="flaky", type="request.failed", subject=f"s{number % 3}",
                    time=now(), severity=Severity.ERROR,
                ),
                Sample(kind="pod", namespace="prod", name=f"pod-{number % 5}", metric="cpu",
                       value=chance.random()),
            ])
            await self.context.save("next", str(number + 1).encode())
            await sleep(0.02)


@almenara.hookimpl
def almenara_sources(settings, context):
    return [Flaky(context)]
"""
RULES = """
enabled: true
rules:
- {name: crashing, severity: ERROR, when: {resource: {kind: pod, status: [CrashLoop*]}}}
- {name: slow-crash, when: {resource: {kind: pod, status: [CrashLoop*]}}, for: 0.1}
- {name: failed, when: {events: {types: [request.failed], count: 4, within: 0.4}}}
- {name: hot, when: {sample: {metric: cpu, aggregation: avg, within: 0.5, above: 0.5}}}
- {name: quiet, when: {absent: {types: [request.failed], within: 0.5}}}
flapping: {fires: 5, within: 5, settle: 1}
"""
