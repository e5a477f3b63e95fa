"""The API server of the tests is a real one, with authorization."""

import pytest

from support.api_server import ApiError, ApiServer


def test_token_reads_only_what_its_rules_allow(api_server: ApiServer, namespace: str) -> None:
    token = api_server.service_account(namespace, "reader")
    pods = f"/api/v1/namespaces/{namespace}/pods"
    with pytest.raises(ApiError) as refused:
        api_server.send("GET", pods, token=token)
    assert refused.value.status == 403
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]
    api_server.allow(f"{namespace}/reader", rules, namespace)
    api_server.pod(namespace, "one")
    (pod,) = api_server.send("GET", pods, token=token)["items"]
    assert pod["status"]["phase"] == "Running"
    with pytest.raises(ApiError):
        api_server.send("GET", "/api/v1/nodes", token=token)
