"""Probes for Kubernetes (liveness and readiness) and metrics for Prometheus."""

from typing import Final

from litestar import Response, get
from litestar.di import NamedDependency
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from almenara.web.authorization import METRICS, PUBLIC
from almenara.web.services import Services


@get("/healthz", opt=PUBLIC, media_type="text/plain", include_in_schema=False)
async def healthz(services: NamedDependency[Services]) -> Response[str]:
    """Respond 200 while the process is alive, whatever the state of upstream systems; 503 with the
    reason when a vital part has ended and only a restart helps."""
    failure = services.bus.failure
    return Response(f"{failure or 'alive'}\n", status_code=503 if failure else 200)


@get("/readyz", opt=PUBLIC, media_type="text/plain", include_in_schema=False)
async def readyz(services: NamedDependency[Services]) -> Response[str]:
    """Respond 200 while Almenara can serve, 503 with the reason while it cannot."""
    reason = services.check_ready()
    return Response(f"{reason or 'ready'}\n", status_code=503 if reason else 200)


@get("/metrics", opt=METRICS, include_in_schema=False)
async def metrics(services: NamedDependency[Services]) -> Response[bytes]:
    """Return the metrics in the Prometheus text format."""
    return Response(
        generate_latest(services.metrics_registry), headers={"content-type": CONTENT_TYPE_LATEST}
    )


PROBES: Final = [healthz, readyz, metrics]
