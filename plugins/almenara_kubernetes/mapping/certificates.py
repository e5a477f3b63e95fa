"""Certificates of cert-manager as resources: names, issuer, and when they expire."""

from typing import Final

from almenara.sdk import now
from almenara.signals import Severity
from almenara.units import DAY
from almenara_kubernetes.mapping import Mapped
from almenara_kubernetes.mapping.conditions import find_condition, map_conditions
from almenara_kubernetes.models import Certificate
from almenara_kubernetes.quantities import parse_timestamp

EXPIRES_SOON: Final = 14 * DAY


def map_certificate(certificate: Certificate) -> Mapped:
    """A certificate. Its status depends on the time, so it is mapped again now and then."""
    ready = find_condition(certificate.status.conditions, "Ready")
    expires = parse_timestamp(certificate.status.not_after)
    text, severity = "Ready", Severity.INFO
    if expires is not None and expires <= now():
        text, severity = "Expired", Severity.ERROR
    elif ready is None or ready.status != "True":
        text = (ready.reason if ready is not None else "") or "NotReady"
        severity = Severity.ERROR
    elif expires is not None and expires - now() <= EXPIRES_SOON:
        text, severity = "Expires soon", Severity.WARN
    spec = certificate.spec
    return text, severity, {
        "expires": expires,
        "issued": parse_timestamp(certificate.status.not_before),
        "renewal": parse_timestamp(certificate.status.renewal_time),
        "names": ", ".join(spec.dns_names) or spec.common_name,
        "secret": spec.secret_name,
        "issuer": f"{spec.issuer_ref.kind or 'Issuer'}/{spec.issuer_ref.name}",
        "message": ready.message if ready is not None else "",
        "conditions": map_conditions(certificate.status.conditions),
    }  # fmt: skip
