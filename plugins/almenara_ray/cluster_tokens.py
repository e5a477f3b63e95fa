"""The token of a RayCluster, from the Secret that KubeRay creates for it.

https://docs.ray.io/en/latest/cluster/kubernetes/user-guides/kuberay-auth.html
"""

import base64
from typing import Final

import msgspec

from almenara.config import Secret
from almenara_kube.client import ApiClient
from almenara_kube.errors import ApiError, UnreachableError
from almenara_kube.objects import DECODE_ERRORS
from almenara_ray.errors import DashboardError

KEY: Final = "auth_token"


class _Secret(msgspec.Struct):
    """The part of a Secret that is read."""

    data: dict[str, str] = {}


async def read_token(api: ApiClient, namespace: str, name: str) -> Secret:
    """Return the token in a Secret. Raises `DashboardError`, whose text has nothing of it."""
    secret = f"the Secret {name!r} in namespace {namespace!r}"
    try:
        body = await api.get(f"/api/v1/namespaces/{namespace}/secrets/{name}")
        encoded = msgspec.json.decode(body, type=_Secret).data.get(KEY, "")
        text = base64.b64decode(encoded, validate=True).decode("ascii").strip()
    except ApiError as error:
        if error.status == 403:
            remedy = "grant `get` of secrets, or set cluster_tokens to false and token instead"
            raise DashboardError(
                f"its token cannot be read: RBAC forbids {secret}; {remedy}"
            ) from None
        raise DashboardError(f"its token cannot be read from {secret}: {error}") from None
    except UnreachableError as error:
        raise DashboardError(f"its token cannot be read: {error}") from None
    except (*DECODE_ERRORS, ValueError):
        text = ""
    # A header cannot hold line breaks, and an error of the HTTP library would quote them.
    if not text or not text.isprintable():
        raise DashboardError(f"its token cannot be read: {secret} has no token under {KEY!r}")
    return Secret.of(text)
