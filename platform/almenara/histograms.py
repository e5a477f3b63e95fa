"""Histograms as counters of buckets: how their samples are named, and their quantiles.

Histograms are cumulative: https://prometheus.io/docs/concepts/metric_types/#histogram. Each bucket
is a series of its own, whose metric has the bucket's upper limit in its name:
`latency_bucket:0.25`, and `latency_bucket:+Inf` for all. Queries show the limit as the label `le`.
"""

import math
from collections.abc import Mapping
from itertools import accumulate
from typing import Final

Counts = Mapping[float, float]
"""Counts up to each limit; of a counter, which has no limits, up to infinity."""
SUFFIX: Final = "_bucket"
SEPARATOR: Final = ":"


def bucket_metric(metric: str, limit: float) -> str:
    """Return the metric of the samples of a bucket."""
    return f"{metric}{SUFFIX}{SEPARATOR}{'+Inf' if limit == math.inf else f'{limit:g}'}"


def bucket_prefix(metric: str) -> str:
    """Return how the metrics of all buckets of a histogram start."""
    return f"{metric}{SUFFIX}{SEPARATOR}"


def split_bucket(metric: str) -> tuple[str, str] | None:
    """Return the metric of a bucket without its limit, and the limit as text; None for others."""
    name, separator, limit = metric.rpartition(SEPARATOR)
    if not separator or not name.endswith(SUFFIX) or parse_limit(limit) is None:
        return None
    return name, limit


def parse_limit(text: str) -> float | None:
    """Return the upper limit of a bucket; None where it is not a number."""
    try:
        value = float(text)
    except ValueError:
        return None
    return None if math.isnan(value) else value


def quantile(share: float, counts: Counts) -> float | None:
    """Return the value below which a share of the counted values lies; None without any.

    As `histogram_quantile` of Prometheus does: values are spread evenly within a bucket; the upper
    limit of the last but one where the rank is in the last, which has no limit.
    """
    limits = sorted(counts)
    if not limits or limits[-1] != math.inf:
        return None
    # The server counts while its buckets are read; make them monotonic.
    cumulative = list(accumulate((counts[limit] for limit in limits), max))
    total = cumulative[-1]
    if total <= 0:
        return None
    rank = share * total
    bucket = next(index for index, count in enumerate(cumulative) if count >= rank)
    if limits[bucket] == math.inf:
        return limits[bucket - 1] if bucket else None
    lower = limits[bucket - 1] if bucket else min(0.0, limits[0])
    below = cumulative[bucket - 1] if bucket else 0.0
    within = cumulative[bucket] - below
    return lower + (limits[bucket] - lower) * ((rank - below) / within if within else 1.0)
