"""Certificates of cert-manager are reported when their renewal is late, whatever their lifetime."""

from typing import Any

import pytest

from almenara.clock import clock_at
from almenara.signals import format_time
from almenara_kubernetes.differ import ClusterDiffer
from almenara_kubernetes.kinds import CERTIFICATES
from support.kubernetes_objects import events, make_object, resources

ISSUED = 1_767_225_600_000_000
HOUR = 3600
DAY = 24 * HOUR


def moment(age: float) -> int:
    """When certificates have this age, in seconds."""
    return ISSUED + round(age * 1_000_000)


def certificate(lifetime: float, renewal: float | None) -> Any:
    """A ready certificate by its lifetime, and the age at which it is to be renewed."""
    status = {
        "notBefore": format_time(ISSUED), "notAfter": format_time(moment(lifetime)),
        "conditions": [{"type": "Ready", "status": "True"}],
    }  # fmt: skip
    if renewal is not None:
        status["renewalTime"] = format_time(moment(renewal))
    return make_object(CERTIFICATES, status=status)


@pytest.mark.parametrize(
    ("lifetime", "renewal", "soon"),
    [
        # cert-manager renews in the last third; a quarter of that, or a day, later it is late.
        (24 * HOUR, 16 * HOUR, 18 * HOUR),
        (6 * DAY, 4 * DAY, 4.5 * DAY),
        (30 * DAY, 20 * DAY, 21 * DAY),
        (90 * DAY, 60 * DAY, 76 * DAY),
        # `renewBefore` is an hour.
        (90 * DAY, 90 * DAY - HOUR, 90 * DAY - 0.75 * HOUR),
        (90 * DAY, None, 76 * DAY),
        (24 * HOUR, None, 18 * HOUR),
        # A renewal that is never due.
        (24 * HOUR, 25 * HOUR, 18 * HOUR),
    ],
)
def test_certificate_expires_soon_when_its_renewal_is_late(
    lifetime: float, renewal: float | None, soon: float
) -> None:
    differ = ClusterDiffer()
    with clock_at(moment(soon - 1)):
        before = differ.update(CERTIFICATES, certificate(lifetime, renewal))
    with clock_at(moment(soon)):
        after = differ.tick()
        again = differ.tick()

    assert [each.status for each in resources(before)] == ["Ready"]
    assert [each.status for each in resources(after)] == ["Expires soon"]
    assert again == []
    assert events(before) == {}
    assert {kind: event.time for kind, event in events(after).items()} == {
        "kubernetes.certificate.expires_soon": moment(soon)
    }
