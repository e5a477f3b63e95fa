"""Types that several sections of the settings use."""

from typing import Annotated

import msgspec

Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Renamed = dict[str, str]
"""The present names of settings, by their former ones, which an error names."""


class GrantSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Signals that a role or receiver may read: those that match every field that is set."""

    sources: list[str] = []
    """Names of sources (`nats`), or patterns of origins (`nats/PLANNING_*`)."""
    types: list[str] = []
    """Patterns of event types (`planning.>`). It grants events only, no resources and samples."""
    namespaces: list[str] = []
    """Names or patterns of Kubernetes namespaces. It grants no signal without a namespace."""
    labels: dict[str, str] = {}
    """Labels that the signal must have, all of them."""
