"""What the NetworkPolicy of the chart lets in and out."""

import pytest

from support.chart import engine
from support.chart.engine import Tree, only, render

SETS = engine.value_sets()


@pytest.mark.parametrize(
    ("values", "others"),
    [
        ({}, []),
        ({"service": {"type": "LoadBalancer"}}, []),
        ({"ingress": {"enabled": True, "host": "a.example.org"}}, [{"namespaceSelector": {}}]),
        ({"metrics": {"serviceMonitor": {"enabled": True}}}, [{"namespaceSelector": {}}]),
        (
            {"ingress": {"enabled": True, "host": "a.example.org"},
             "networkPolicy": {"ingress": {"from": []}}},
            [],
        ),
        (
            {"networkPolicy": {"ingress": {"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}}},
            [{"ipBlock": {"cidr": "192.0.2.0/24"}}],
        ),
    ],
)  # fmt: skip
def test_network_policy_allows_expected_clients(values: Tree, others: list[Tree]) -> None:
    manifests = render(values)
    (rule,) = only(manifests, "NetworkPolicy")["spec"]["ingress"]
    own = only(manifests, "NetworkPolicy")["spec"]["podSelector"]
    assert rule["from"] == [*others, {"podSelector": own}]


def test_network_policy_allows_configured_ports() -> None:
    manifests = render(engine.read(SETS["http-only"]))
    rules = only(manifests, "NetworkPolicy")["spec"]["egress"]
    ports = {port["port"] for rule in rules for port in rule["ports"]}
    assert ports == {53, "http", 443, 9000}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"plugins": {"install": {
                "enabled": True, "indexUrl": "https://wheels.example.org:8443/simple",
                "requirements": f"a==1 --hash=sha256:{'0' * 64}"}}},
            {8443},
        ),
        (
            {"plugins": {"enabled": ["nats"]},
             "config": {"plugins": {"nats": {"servers": ["a", "b:4333", "10.0.0.1:4444"]}}}},
            {4222, 4333, 4444},
        ),
        (
            {"plugins": {"enabled": ["neo4j"]},
             "config": {"plugins": {"neo4j": {"deployments": [
                 {"name": "a", "urls": ["bolt://a", "bolt://b:7777"]},
                 {"name": "b", "urls": ["bolt+s://c"]}]}}}},
            {7687, 7777},
        ),
        (
            {"plugins": {"enabled": ["valkey"]},
             "config": {"plugins": {"valkey": {"deployments": [
                 {"name": "a", "urls": ["rediss://sentinel:26379"]},
                 {"name": "b", "urls": ["redis://c:7000"]}]}}}},
            {6379, 7000, 26379},
        ),
        (
            {"plugins": {"enabled": ["valkey"]},
             "config": {"plugins": {"valkey": {"deployments": [
                 {"name": "a", "urls": ["redis://c:7000"], "discover": False}]}}}},
            {7000},
        ),
        (
            {"plugins": {"enabled": ["vllm"]},
             "config": {"plugins": {"vllm": {
                 "servers": [{"name": "a", "url": "http://vllm:8000"}],
                 "ray": [{"name": "b", "url": "http://head:8265"}]}}}},
            {8000, 8080, 8265},
        ),
        (
            {"plugins": {"enabled": ["kubernetes"]},
             "secrets": {"east": {"existingSecret": "kubeconfig"}},
             "config": {"plugins": {"kubernetes": {"clusters": [
                 {"name": "east", "kubeconfig": "/etc/almenara/secrets/east/kubeconfig"}]}}}},
            {443, 6443},
        ),
        (
            {"secrets": {"x": {"existingSecret": "x"}},
             "config": {"auth": {"mode": "kubernetes", "kubernetes": {
                 "server": "https://10.1.1.1:7443",
                 "token": {"file": "/etc/almenara/secrets/x/token"}}}}},
            {7443},
        ),
        (
            {"plugins": {"enabled": ["notifiers"]},
             "secrets": {"x": {"existingSecret": "x"}},
             "config": {"alerting": {
                 "heartbeat": {"url": {"file": "/etc/almenara/secrets/x/heartbeat"}},
                 "receivers": [
                     {"name": "a", "kind": "email", "settings": {"host": "h"}},
                     {"name": "b", "kind": "email", "settings": {"security": "tls"}},
                     {"name": "c", "kind": "email", "settings": {"port": 2525}},
                     {"name": "d", "kind": "webhook", "settings": {"url": "http://hook:8088/x"}},
                     {"name": "e", "kind": "slack_webhook", "settings": {
                         "url": {"file": "/etc/almenara/secrets/x/url"}}},
                 ]}}},
            {587, 465, 2525, 8088, 443},
        ),
        (
            {"plugins": {"enabled": ["http"]},
             "config": {
                 "samples": {"remote_write": [{"url": "http://prometheus:9090/api/v1/write"}]},
                 "plugins": {"http": {"checks": [
                     {"name": "a", "url": "https://a.example", "proxy": "http://proxy:3128"},
                     {"name": "b", "url": "https://b.example:8443", "proxy": ""},
                 ]}}}},
            {9090, 443, 3128, 8443},
        ),
    ],
)  # fmt: skip
def test_network_policy_allows_ports_of_all_targets(values: Tree, expected: set[int]) -> None:
    rules = only(render(values), "NetworkPolicy")["spec"]["egress"]
    assert expected <= {port["port"] for rule in rules for port in rule["ports"]}


def test_network_policy_allows_dns_ports() -> None:
    for ports in ([53], [53, 5353]):
        values = {"networkPolicy": {"egress": {"dnsPorts": ports}}}
        dns = only(render(values), "NetworkPolicy")["spec"]["egress"][0]
        assert {(each["port"], each["protocol"]) for each in dns["ports"]} == {
            (port, protocol) for port in ports for protocol in ("UDP", "TCP")
        }
