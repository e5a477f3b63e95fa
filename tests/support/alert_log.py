"""What alert rules derive of a log, to compare with what it has."""

from collections.abc import Sequence
from typing import Any

import msgspec
import yaml

from almenara.alerting.evaluator import NAME, Evaluator
from almenara.alerting.service import read_rules
from almenara.bus import Record
from almenara.config import Settings, decode_settings
from almenara.plugins import PluginRegistry
from almenara.processors.fold import Fold
from almenara.signals import Event
from support.flaky_pods import RULES

ALERTING = yaml.safe_load(RULES)


def check_transitions(records: Sequence[Record], end: int) -> list[Event]:
    """Check that the transitions in a log equal those of one undisturbed evaluation of it up to a
    position; return them."""
    settings = decode_settings(Settings, {"alerting": ALERTING}, place="")
    fold = Fold(Evaluator(read_rules(settings, PluginRegistry())), NAME, {})
    derived = [
        signal for record in records if record.sequence <= end for signal in fold.accept(record)
    ]
    assert fold.take_failures() == []
    expected = [signal for signal in derived if isinstance(signal, Event)]
    stored = [
        record.signal
        for record in records
        if isinstance(record.signal, Event) and record.signal.type.startswith("almenara.alert.")
    ]
    assert [_identify(event) for event in stored] == [_identify(event) for event in expected]
    return stored


def _identify(event: Event) -> list[Any]:
    data = event.data
    if isinstance(data, msgspec.Raw):
        data = msgspec.json.decode(data)
    names = ("since", "started", "ended", "annotations", "value", "inhibited_by")
    return [event.id, event.type, event.subject, event.time, *(data.get(name) for name in names)]
