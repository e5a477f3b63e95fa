"""YAML of objects, of a real API server under a Role."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from almenara.sdk import NotFound
from almenara_kube.roles import make_roles
from almenara_kubernetes.manifests import Manifests
from almenara_kubernetes.rbac import needed_rules
from almenara_kubernetes.settings import ClusterSettings, KubernetesSettings
from support.api_server import ApiServer

pytestmark = pytest.mark.anyio

PLANTED = "hunter2hunter2"
HOSTILE = "<script>window.pwned=1</script>\u202e\n# {{ 7*7 }}"


async def lines(settings: KubernetesSettings, **filters: str) -> list[str]:
    matches: list[str] = []
    async with asyncio.timeout(20):
        async for batch in Manifests(settings).lines(filters):
            matches += [each.text for each in batch]
    return matches


async def test_yaml_is_readable_with_the_printed_role_and_masked(
    api_server: ApiServer, namespace: str, tmp_path: Path
) -> None:
    spec: dict[str, Any] = {
        "containers": [{
            "name": "main", "image": "x", "args": [f"--token={PLANTED}"],
            "env": [{"name": "PASSWORD", "value": PLANTED}, {"name": "HOSTILE", "value": HOSTILE}],
        }],
    }  # fmt: skip
    made = await asyncio.to_thread(api_server.pod, namespace, "web-1", spec=spec)
    annotations = {
        "kubectl.kubernetes.io/last-applied-configuration": f'{{"password":"{PLANTED}"}}',
        "note": HOSTILE,
        "plain": "<b>kept</b>",
    }
    await asyncio.to_thread(api_server.patch, made, {"metadata": {"annotations": annotations}})
    token = await asyncio.to_thread(api_server.service_account, namespace, "reader")
    path = api_server.kubeconfig(token=token, path=tmp_path / "kubeconfig")
    cluster = ClusterSettings(kubeconfig=path, namespaces=[namespace])
    settings = KubernetesSettings(clusters=[cluster], yaml=True)

    with pytest.raises(NotFound) as refused:
        await lines(settings, namespace=namespace, name="Pod/web-1")
    assert "{apiGroups: [''], resources: [pods], verbs: [get]}" in str(refused.value)

    for role in make_roles(needed_rules(settings)):
        if role["kind"] == "Role":
            await asyncio.to_thread(
                api_server.allow, f"{namespace}/reader", role["rules"], namespace
            )
    matches = await lines(settings, namespace=namespace, name="Pod/web-1")
    whole = "\n".join(matches)
    assert "kind: Pod" in matches
    assert "managedFields" not in whole
    assert PLANTED not in whole
    assert "pwned" not in whole
    assert "    plain: <b>kept</b>" in matches
    assert all(each.isprintable() for each in matches)

    with pytest.raises(NotFound, match="any more"):
        await lines(settings, namespace=namespace, name="Pod/gone")
    for wrong in ("Secret/a", "Pod/../../secrets/a", "Pod/a?b", "", "pod/web-1"):
        with pytest.raises(NotFound, match="choose one of"):
            await lines(settings, namespace=namespace, name=wrong)
    with pytest.raises(NotFound, match="is not watched"):
        await lines(settings, namespace="kube-system", name="Pod/a")


async def test_yaml_needs_to_be_enabled(tmp_path: Path) -> None:
    settings = KubernetesSettings(clusters=[ClusterSettings(kubeconfig=tmp_path / "none")])
    with pytest.raises(NotFound, match="switched off"):
        await lines(settings, namespace="a", name="Pod/b")
