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
"""Microseconds before its end from which on a certificate may count as expiring soon."""
LATE_SHARE: Final = 4
"""A renewal is late after this part of the time that it leaves, and without a known renewal, a
certificate expires soon in this last part of its lifetime: renewals are due in its last third."""
LONGEST_DELAY: Final = DAY


def expires_soon_at(expires: int, issued: int | None, renewal: int | None) -> int:
    """When a certificate counts as expiring soon: near its end, and not before it should have been
    renewed. All are in microseconds since the epoch."""
    if renewal is not None and renewal < expires:
        late = renewal + min((expires - renewal) // LATE_SHARE, LONGEST_DELAY)
        return max(expires - EXPIRES_SOON, late)
    lifetime = expires - issued if issued is not None else None
    if lifetime is None or lifetime <= 0:
        return expires - EXPIRES_SOON
    return expires - min(EXPIRES_SOON, lifetime // LATE_SHARE)


def map_certificate(certificate: Certificate) -> Mapped:
    """A certificate. Its status depends on the time, so it is mapped again now and then."""
    ready = find_condition(certificate.status.conditions, "Ready")
    expires = parse_timestamp(certificate.status.not_after)
    issued = parse_timestamp(certificate.status.not_before)
    renewal = parse_timestamp(certificate.status.renewal_time)
    text, severity = "Ready", Severity.INFO
    if expires is not None and expires <= now():
        text, severity = "Expired", Severity.ERROR
    elif ready is None or ready.status != "True":
        text = (ready.reason if ready is not None else "") or "NotReady"
        severity = Severity.ERROR
    elif expires is not None and expires_soon_at(expires, issued, renewal) <= now():
        text, severity = "Expires soon", Severity.WARN
    spec = certificate.spec
    return text, severity, {
        "expires": expires,
        "issued": issued,
        "renewal": renewal,
        "names": ", ".join(spec.dns_names) or spec.common_name,
        "secret": spec.secret_name,
        "issuer": f"{spec.issuer_ref.kind or 'Issuer'}/{spec.issuer_ref.name}",
        "message": ready.message if ready is not None else "",
        "conditions": map_conditions(certificate.status.conditions),
    }  # fmt: skip
