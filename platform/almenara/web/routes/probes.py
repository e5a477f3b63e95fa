"""What machines ask: is it alive, can it serve, and how does it fare."""

from typing import Final

from litestar import Response, get
from litestar.di import NamedDependency
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from almenara.web.authorization import METRICS, PUBLIC
from almenara.web.services import Services


@get("/healthz", opt=PUBLIC, media_type="text/plain", include_in_schema=False)
async def healthz() -> str:
    """The process is alive, whatever happens upstream."""
    return "alive\n"


@get("/readyz", opt=PUBLIC, media_type="text/plain", include_in_schema=False)
async def readyz(services: NamedDependency[Services]) -> Response[str]:
    """Whether it can serve; 503 with the reason where it cannot."""
    reason = services.ready()
    return Response(f"{reason or 'ready'}\n", status_code=503 if reason else 200)


@get("/metrics", opt=METRICS, include_in_schema=False)
async def metrics(services: NamedDependency[Services]) -> Response[bytes]:
    """Figures for Prometheus."""
    return Response(
        generate_latest(services.registry), headers={"content-type": CONTENT_TYPE_LATEST}
    )


PROBES: Final = [healthz, readyz, metrics]
