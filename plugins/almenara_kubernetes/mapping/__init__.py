"""Objects of the Kubernetes API as resources and events: one module for each area of the API.

All of it is pure: an object goes in, and its status, severity and state come out.
"""

from typing import Any

from almenara.signals import Severity

Mapped = tuple[str, Severity, dict[str, Any]]
"""The status of a resource, its severity and its state."""
