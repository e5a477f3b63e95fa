"""The settings of checkpoints."""

import msgspec

from almenara.config.common import Count, Positive


class CheckpointSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Checkpoints of all resources, from which a start and views of the past begin."""

    interval: Positive = 3600.0
    """Seconds between two checkpoints."""
    max_changes: Count = 3_000
    """Changes of resources after which a checkpoint is written before the interval is over."""
    retention_age: Positive = 7 * 86_400.0
    """Seconds for which the state as of any moment is stored."""
    retention_size: Count = 512 * 1024**2
    """Maximum size of checkpoints and changes in bytes; beyond it, the oldest are deleted."""
