"""Persistent volume claims as resources."""

from typing import Final

from almenara.signals import Severity
from almenara_kubernetes.mapping import Mapped
from almenara_kubernetes.mapping.conditions import map_conditions
from almenara_kubernetes.models import PersistentVolumeClaim
from almenara_kubernetes.quantities import parse_quantity

SEVERITIES: Final = {
    "Bound": Severity.INFO, "Pending": Severity.WARN, "Terminating": Severity.DEBUG,
}  # fmt: skip


def map_claim(claim: PersistentVolumeClaim) -> Mapped:
    """A PersistentVolumeClaim, with the status that kubectl prints."""
    text = "Terminating" if claim.metadata.deletion_timestamp else claim.status.phase or "Pending"
    return text, SEVERITIES.get(text, Severity.ERROR), {
        "class": claim.spec.storage_class_name,
        "volume": claim.spec.volume_name,
        "requested": parse_quantity(claim.spec.resources.requests.get("storage")),
        "capacity": parse_quantity(claim.status.capacity.get("storage")),
        "modes": claim.spec.access_modes,
        "conditions": map_conditions(claim.status.conditions),
    }  # fmt: skip
