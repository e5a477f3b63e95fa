"""Almenara: sources light events, one bus passes them on, panels show them as they happen."""

from typing import Final

import pluggy

API_VERSION: Final = 1
"""The version of the plugin contract in `almenara.hookspecs`; it grows when the contract does."""

__version__: Final = "0.2.0"

hookimpl: Final = pluggy.HookimplMarker("almenara")
"""Marks a function of a plugin as the implementation of a hook in `almenara.hookspecs`."""
