"""Current state: what there is by kind and namespace, and the last samples of it."""

import math
from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from almenara.bus import Record
from almenara.bus.codec import normalize
from almenara.signals import Resource, Sample, Signal
from almenara.state.resources import SAMPLES_KEPT, Resources, Series


def holding(*signals: Signal) -> Resources:
    resources = Resources()
    resources.accept([Record(number, it) for number, it in enumerate(signals, 1)])
    return resources


@given(
    samples=st.lists(
        st.tuples(st.integers(-(2**63) + 1, 2**63 - 1), st.floats(allow_nan=False)),
        max_size=SAMPLES_KEPT * 3,
    )
)
def test_a_series_keeps_its_last_samples_as_they_were(samples: list[tuple[int, float]]) -> None:
    series, kept = Series(), deque[tuple[int, float]](maxlen=SAMPLES_KEPT)
    for moment, value in samples:
        series.append(moment, value)
        kept.append((moment, value))

        assert series.newest == value

    assert series.points() == list(kept)


@given(
    told=st.lists(
        st.tuples(
            st.sampled_from(("a", "a-b", "a/b", "ab", "", "b")), st.sampled_from("xyz"),
            st.booleans(),
        ),
        max_size=30,
    )
)  # fmt: skip
def test_the_resources_of_a_kind_are_sorted_and_those_of_one_namespace_are_found(
    told: list[tuple[str, str, bool]],
) -> None:
    resources, known = Resources(), dict[tuple[str, str], bool]()
    for number, (namespace, name, gone) in enumerate(told, 1):
        it = Resource(kind="pod", namespace=namespace, name=name, deleted=gone)
        resources.accept([Record(number, it)])
        known[namespace, name] = gone
        # Asked in between, so that what is sorted already is up to date all the same.
        found = [(it.namespace, it.name, it.deleted) for it in resources.of_kind("pod")]
        assert found == [(*key, known[key]) for key in sorted(known)]
        for wanted in {space for space, _ in known} - {""}:
            inside = [it.name for it in resources.of_kind("pod", wanted)]
            assert inside == sorted(name for space, name in known if space == wanted)


def test_the_newest_of_every_metric_of_a_resource_is_known() -> None:
    it = Resource(kind="pod", namespace="shop", name="one")
    more = {"kind": "pod", "namespace": "shop", "name": "one"}
    resources = holding(
        it,
        *(Sample(**more, metric="cpu", value=float(number), time=number) for number in range(200)),
        Sample(**more, metric="memory", value=7.0),
    )

    assert resources.metrics(it) == {"cpu": 199.0, "memory": 7.0}
    assert resources.latest(*it.key, "cpu") == 199.0
    assert resources.series(*it.key, "cpu")[0] == (80, 80.0)
    assert resources.series(*it.key, "none") == []
    assert resources.latest("pod", "shop", "two", "cpu") is None


@pytest.mark.parametrize("value", [math.nan, math.inf, 10**400, "7", None])
def test_a_sample_that_the_log_could_not_give_back_is_refused_by_its_name(value: Any) -> None:
    with pytest.raises(ValueError, match="sample pod 'one' cannot be kept"):
        normalize(Sample(kind="pod", name="one", metric="cpu", value=value), "test")
