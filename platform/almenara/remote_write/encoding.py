"""Samples as a request of remote write 1.0: a message of Protocol Buffers.

    WriteRequest { repeated TimeSeries timeseries = 1; }
    TimeSeries { repeated Label labels = 1; repeated Sample samples = 2; }
    Label { string name = 1; string value = 2; }
    Sample { double value = 1; int64 timestamp = 2; }

https://prometheus.io/docs/specs/prw/remote_write_spec/
"""

import re
import struct
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

from almenara.promql.matching import label_series
from almenara.promql.syntax import METRIC_LABEL
from almenara.signals import Sample
from almenara.state.sample_schema import SeriesName, name_series
from almenara.units import MILLISECOND

INVALID: Final = re.compile(r"[^a-zA-Z0-9_:]")
_FIRST_BYTES: Final = 0x0A
"""Field 1, of bytes."""
_SECOND_BYTES: Final = 0x12
_FIRST_DOUBLE: Final = 0x09
_SECOND_INTEGER: Final = 0x10
_DOUBLE: Final = struct.Struct("<d")

SERIES_CACHED: Final = 20_000

Labels = Mapping[str, str]


class Encoder:
    """Encodes requests for one receiver; the labels of recent series are encoded once."""

    def __init__(self, external_labels: Labels) -> None:
        self._external_labels = external_labels
        self._encode_labels = lru_cache(SERIES_CACHED)(self._encode_labels_of)

    def encode(self, samples: Iterable[Sample]) -> bytes:
        """Return samples as a request: by series, in order of time, of each millisecond the
        last."""
        series: dict[SeriesName, dict[int, float]] = {}
        for sample in samples:
            series.setdefault(name_series(sample), {})[sample.time // MILLISECOND] = sample.value
        return b"".join(
            _field(_FIRST_BYTES, self._encode_labels(name) + _encode_points(points))
            for name, points in series.items()
        )

    def _encode_labels_of(self, name: SeriesName) -> bytes:
        return b"".join(
            _field(
                _FIRST_BYTES,
                _field(_FIRST_BYTES, label.encode()) + _field(_SECOND_BYTES, value.encode()),
            )
            for label, value in make_labels(name, self._external_labels).items()
        )


def make_labels(name: SeriesName, external_labels: Labels) -> dict[str, str]:
    """Return the labels of a series, sorted.

    The name of the metric has `_` in place of what Prometheus does not accept before version 3.
    """
    labels = label_series(name)
    metric = INVALID.sub("_", labels.get(METRIC_LABEL, ""))
    labels[METRIC_LABEL] = metric if metric and not metric[0].isdigit() else f"_{metric}"
    return dict(sorted({**external_labels, **labels}.items()))


def _encode_points(points: Mapping[int, float]) -> bytes:
    return b"".join(
        _field(_SECOND_BYTES, _encode_sample(time, points[time])) for time in sorted(points)
    )


def _encode_sample(time: int, value: float) -> bytes:
    return b"".join(
        (
            bytes((_FIRST_DOUBLE,)),
            _DOUBLE.pack(value),
            bytes((_SECOND_INTEGER,)),
            # A negative number takes the ten bytes of its two's complement.
            _varint(time % 2**64),
        )
    )


def _field(tag: int, content: bytes) -> bytes:
    return bytes((tag,)) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
