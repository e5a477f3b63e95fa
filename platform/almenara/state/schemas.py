"""The schemas of all databases of a folder, for what handles them together."""

from collections.abc import Mapping
from typing import Final

from almenara.bus.schema import VERSION as LOG_VERSION
from almenara.bus.writer_thread import DATABASE as LOG_DATABASE
from almenara.state.checkpoints import (
    DATABASE as CHECKPOINT_DATABASE,
    VERSION as CHECKPOINT_VERSION,
)
from almenara.state.sample_schema import DATABASE as SAMPLE_DATABASE, VERSION as SAMPLE_VERSION

SCHEMAS: Final[Mapping[str, int]] = {
    LOG_DATABASE: LOG_VERSION,
    CHECKPOINT_DATABASE: CHECKPOINT_VERSION,
    SAMPLE_DATABASE: SAMPLE_VERSION,
}
"""The newest schema that this version reads, by the name of the database."""
