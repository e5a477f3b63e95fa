"""Counters and histograms of metrics pages: what was counted between two pages, and quantiles.

Histograms are cumulative: https://prometheus.io/docs/concepts/metric_types/#histogram.
"""

import math
from collections.abc import Mapping
from itertools import accumulate

Counts = Mapping[float, float]
"""Counts up to each limit; of a counter, which has no limits, up to infinity."""


def parse_limit(text: str) -> float | None:
    """Return the upper limit of a bucket; None where it is not a number."""
    try:
        value = float(text)
    except ValueError:
        return None
    return None if math.isnan(value) else value


def increase(before: Counts, after: Counts) -> Counts:
    """Return what was counted between two pages. Counts lower than before have been reset, so all
    of them are new."""
    if any(after[limit] < before.get(limit, 0.0) for limit in after):
        return after
    return {limit: count - before.get(limit, 0.0) for limit, count in after.items()}


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
