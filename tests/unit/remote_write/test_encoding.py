"""Requests of remote write, decoded with Google's library."""

import math

from hypothesis import given, strategies as st

from almenara.histograms import SEPARATOR, SUFFIX
from almenara.remote_write.encoding import Encoder, make_labels
from almenara.signals import Sample
from almenara.state.sample_schema import SeriesName
from support.remote_write import decode_request

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
SAMPLES = st.builds(
    Sample, kind=TEXTS, namespace=TEXTS, name=TEXTS, origin=TEXTS,
    metric=st.sampled_from(("cpu", "http.latency", "9x", "a-b", "le_bucket")),
    value=st.floats(allow_nan=False), time=st.integers(-(2**62), 2**62),
)  # fmt: skip


@given(st.lists(SAMPLES, max_size=30))
def test_request_has_every_sample_once_in_order(samples: list[Sample]) -> None:
    rows = decode_request(Encoder({"cluster": "a", "z": "é"}).encode(samples))
    expected = {
        (sample.metric, sample.key, sample.origin, sample.time // 1000): sample.value
        for sample in samples
    }
    assert len(rows) == len(expected)
    assert sorted(value for _, _, value in rows) == sorted(expected.values())
    last: dict[tuple[tuple[str, str], ...], float] = {}
    for labels, time, _ in rows:
        names = [name for name, _ in labels]
        assert names == sorted(set(names))
        assert all(value for _, value in labels)
        assert time > last.get(labels, -math.inf)
        last[labels] = time


def test_labels_are_those_that_prometheus_accepts() -> None:
    name = SeriesName("http.req-rate", "pod", "shop", "web-1", "kubernetes/a")
    assert make_labels(name, {"cluster": "eu"}) == {
        "__name__": "http_req_rate", "cluster": "eu", "kind": "pod", "name": "web-1",
        "namespace": "shop", "origin": "kubernetes/a",
    }  # fmt: skip
    assert make_labels(SeriesName("95th", "k", "", "n", ""), {})["__name__"] == "_95th"
    bucket = make_labels(SeriesName(f"latency{SUFFIX}{SEPARATOR}0.5", "k", "", "n", ""), {})
    assert (bucket["__name__"], bucket["le"]) == ("latency_bucket", "0.5")
