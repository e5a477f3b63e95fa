"""How signals are normalized and stored."""

import math
from typing import Any

import msgspec
import pytest

from almenara.bus.codec import event_key, normalize
from almenara.signals import Event, Sample


@pytest.mark.parametrize("value", [math.nan, math.inf, 10**400, "7", None])
def test_normalize_refuses_sample_value_that_is_not_finite(value: Any) -> None:
    with pytest.raises(ValueError, match="Sample 'cpu' of 'one': value is"):
        normalize(Sample(kind="pod", name="one", metric="cpu", value=value), "test")


def test_event_key_is_the_deduplication_key_where_there_is_one() -> None:
    event = Event(id="a", source="s", type="t", time=0)
    first = msgspec.structs.replace(event, deduplication_key="stream@1:1")
    second = msgspec.structs.replace(event, deduplication_key="stream@1:2")
    assert len({event_key(event), event_key(first), event_key(second)}) == 3
    renamed = msgspec.structs.replace(first, id="b")
    assert event_key(renamed) == event_key(first)


@pytest.mark.parametrize("attributes", [{}, {"namespace": "a"}])
def test_normalize_copies_the_attributes(attributes: dict[str, str]) -> None:
    event = Event(id="1", source="s", type="t", time=1, data={}, attributes=attributes)
    stored = normalize(event, "o")
    before = dict(attributes)
    attributes["added"] = "later"
    assert isinstance(stored, Event)
    assert stored.attributes == before
