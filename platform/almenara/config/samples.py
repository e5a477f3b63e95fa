"""The settings of the sample store."""

from typing import Annotated, Final

import msgspec

from almenara.config.common import Count, Positive

SECONDS_PER_DAY: Final = 86_400.0


class SampleSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The sample store, which charts are read from: a database of its own in `storage.dir`."""

    retention_age: Annotated[float, msgspec.Meta(ge=21_600)] = 2 * SECONDS_PER_DAY
    """Seconds after which single samples are deleted."""
    minute_retention_age: Positive = 30 * SECONDS_PER_DAY
    """Seconds after which minimum, maximum and mean of each minute are deleted."""
    hour_retention_age: Positive = 400 * SECONDS_PER_DAY
    """Seconds after which minimum, maximum and mean of each hour are deleted."""
    retention_size: Count = 2 * 1024**3
    """Maximum size of the sample store in bytes; beyond it, the ages above shrink alike."""
    flush_interval: Positive = 300.0
    """Seconds between two writes. What was not written when Almenara was killed is read again from
    the log, as long as `storage.sample_retention_age` keeps it there."""
    max_series: Count = 1_000_000
    """Maximum stored series of one source. Beyond it, new ones are left out and reported, until
    those that ended more than a day ago have been removed for them."""
