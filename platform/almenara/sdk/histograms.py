"""Counters and histograms of metrics pages: what was counted between two pages, and quantiles."""

from almenara.histograms import Counts, bucket_metric, parse_limit, quantile

__all__ = ["Counts", "bucket_metric", "increase", "parse_limit", "quantile"]


def increase(before: Counts, after: Counts) -> Counts:
    """Return what was counted between two pages. Counts lower than before have been reset, so all
    of them are new."""
    if any(after[limit] < before.get(limit, 0.0) for limit in after):
        return after
    return {limit: count - before.get(limit, 0.0) for limit, count in after.items()}
