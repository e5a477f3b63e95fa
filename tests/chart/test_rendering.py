"""Every set of values renders to objects that clusters take and reviewers let pass."""

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import helm_python
import kubernetes_validate.utils
import promql_parser
import pytest
import yaml
from cloudcoil.models.cert_manager import v1 as cert_manager
from cloudcoil.models.prometheus_operator import v1 as prometheus_operator

from support.chart import engine
from support.chart.engine import (
    CHART,
    Thing,
    containers,
    of_kind,
    only,
    pods,
    render,
    value_sets,
    workload,
)

SETS = value_sets()
MINORS = [f"1.{minor}" for minor in range(28, 38)]
CUSTOM = {
    "Certificate": cert_manager.Certificate,
    "ServiceMonitor": prometheus_operator.ServiceMonitor,
    "PrometheusRule": prometheus_operator.PrometheusRule,
}
ELSEWHERE = {"HTTPRoute"}
"""Kinds that only the API server of test_install.py knows."""
VOLUMES = {
    "configMap", "emptyDir", "projected", "secret", "downwardAPI", "persistentVolumeClaim",
    "ephemeral", "csi",
}  # fmt: skip


@pytest.fixture(scope="module", params=SETS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def values(name: str) -> Thing:
    return engine.read(SETS[name])


@pytest.fixture(scope="module")
def things(name: str) -> list[Thing]:
    return engine.rendered(name)


@pytest.fixture(scope="module")
def schemas_read_once() -> Iterator[None]:
    """The schemas of Kubernetes, megabytes a minor, which the library reads for each object."""
    with pytest.MonkeyPatch.context() as patch:
        for slow in ("schema_contents", "all_versions"):
            patch.setattr(
                kubernetes_validate.utils,
                slow,
                functools.cache(getattr(kubernetes_validate.utils, slow)),
            )
        yield


@functools.cache
def taken(text: str, minor: str) -> None:
    """Raises unless the minor takes the object; most objects are the same in many sets."""
    kubernetes_validate.validate(json.loads(text), minor, strict=True)


def test_there_are_enough_sets() -> None:
    assert len(SETS) >= 30


def test_it_lints_without_a_complaint(values: Thing) -> None:
    report = helm_python.lint(CHART, values, strict=True, namespace="watch")
    assert not report["errors"]
    assert [it for it in report["messages"] if it["severity"] > 1] == []


@pytest.mark.parametrize("minor", MINORS)
@pytest.mark.usefixtures("schemas_read_once")
def test_each_minor_of_kubernetes_takes_it(things: list[Thing], minor: str) -> None:
    for thing in things:
        if thing["kind"] not in CUSTOM.keys() | ELSEWHERE:
            taken(json.dumps(thing, sort_keys=True), minor)


def test_custom_resources_are_what_their_operators_read(things: list[Thing]) -> None:
    for thing in things:
        if (model := CUSTOM.get(thing["kind"])) is not None:
            read = model.model_validate(thing)
            # The model leaves out what it does not know, so that this finds typing errors.
            assert json.loads(read.model_dump_json(by_alias=True, exclude_unset=True)) == thing


def test_every_object_has_a_namespace_and_the_standard_labels(things: list[Thing]) -> None:
    for thing in things:
        metadata = thing["metadata"]
        if metadata["name"].endswith("-more"):
            continue
        if not thing["kind"].startswith("Cluster"):
            assert metadata["namespace"]
        labels = {it.removeprefix("app.kubernetes.io/") for it in metadata["labels"]}
        assert {"name", "instance", "version", "component", "part-of", "managed-by",
                "helm.sh/chart"} <= labels  # fmt: skip


def test_no_two_objects_share_a_name(things: list[Thing]) -> None:
    names = [(it["kind"], it["metadata"].get("namespace"), it["metadata"]["name"]) for it in things]
    assert len(names) == len(set(names))


def test_pods_keep_the_restricted_standard_and_more(values: Thing, things: list[Thing]) -> None:
    for _, pod in pods(things):
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 10_000
        assert security["runAsGroup"] > 10_000
        assert security["seccompProfile"]["type"] == "RuntimeDefault"
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert pod["serviceAccountName"] not in ("", "default")
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        for volume in pod.get("volumes", []):
            assert volume.keys() - {"name"} <= VOLUMES
            assert "sizeLimit" in volume.get("emptyDir", {"sizeLimit": ""})
        for container in containers(pod):
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False
            assert own["readOnlyRootFilesystem"] is True
            assert own["runAsNonRoot"] is True
            assert own["capabilities"] == {"drop": ["ALL"]}
            assert own["seccompProfile"]["type"] == "RuntimeDefault"
            assert container["imagePullPolicy"] in ("Always", "IfNotPresent")
            assert not container["image"].endswith(":latest")
            assert ":" in container["image"]
            resources = container["resources"]
            for needed in ("cpu", "memory", "ephemeral-storage"):
                assert resources["requests"][needed]
                assert resources["limits"][needed]
            assert resources["requests"]["memory"] == resources["limits"]["memory"]
            assert not any("hostPort" in port for port in container.get("ports", []))


def test_the_server_is_probed_by_what_depends_on_nothing_else(things: list[Thing]) -> None:
    server = workload(things)["spec"]["template"]["spec"]["containers"][0]
    asked = {
        name: server[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")
    }
    assert {name: it["path"] for name, it in asked.items()} == {
        "startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz",
    }  # fmt: skip
    assert {it["port"] for it in asked.values()} == {server["ports"][0]["name"]}
    startup = server["startupProbe"]
    assert startup["failureThreshold"] * startup["periodSeconds"] >= 60


def test_only_one_pod_ever_has_the_bus(things: list[Thing]) -> None:
    found = workload(things)
    assert found["spec"]["replicas"] == 1
    (data,) = [it for it in found["spec"]["template"]["spec"]["volumes"] if it["name"] == "data"]
    if "persistentVolumeClaim" in data:
        # A StatefulSet starts no pod before the one of the same name is known to be gone.
        assert found["kind"] == "StatefulSet"
    else:
        assert found["spec"]["strategy"] == {"type": "Recreate"}


def test_selectors_find_the_server_and_nothing_else(things: list[Thing]) -> None:
    labels = workload(things)["spec"]["template"]["metadata"]["labels"]
    assert workload(things)["spec"]["selector"]["matchLabels"].items() <= labels.items()
    for service in of_kind(things, "Service"):
        selector = service["spec"]["selector"]
        assert selector.items() <= labels.items()
        for thing in things:
            if thing["kind"] in ("Pod", "Job"):
                of_pod = thing.get("spec", {}).get("template", thing)["metadata"]["labels"]
                assert not selector.items() <= of_pod.items()
    for budget in of_kind(things, "PodDisruptionBudget"):
        assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()
    for monitor in of_kind(things, "ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"]
        chosen = [
            it
            for it in of_kind(things, "Service")
            if wanted.items() <= it["metadata"]["labels"].items()
        ]
        assert len(chosen) == 1


def test_no_annotation_gives_a_secret_away_to_who_guesses() -> None:
    made = [
        workload(render({"secrets": {"nats": {"data": {"password": word}}}}))["spec"]["template"]
        for word in ("hunter2", "another")
    ]
    assert made[0] == made[1]


def test_nothing_secret_is_in_a_config_map_or_the_environment(things: list[Thing]) -> None:
    for thing in of_kind(things, "ConfigMap"):
        assert "not-a-real-one" not in json.dumps(thing)
    for _, pod in pods(things):
        for container in containers(pod):
            assert not any(
                "secretKeyRef" in it.get("valueFrom", {}) for it in container.get("env", [])
            )


def test_the_network_policy_denies_what_is_not_named(values: Thing, things: list[Thing]) -> None:
    policies = of_kind(things, "NetworkPolicy")
    if values.get("networkPolicy", {}).get("enabled") is False:
        assert policies == []
        return
    (policy,) = policies
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    labels = workload(things)["spec"]["template"]["metadata"]["labels"]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    for rule in policy["spec"]["ingress"]:
        assert rule["from"]
        assert rule["ports"] == [{"port": "http", "protocol": "TCP"}]
    for rule in policy["spec"]["egress"]:
        assert rule["ports"]


def test_rights_are_to_read_and_never_to_secrets(things: list[Thing]) -> None:
    for role in (*of_kind(things, "Role"), *of_kind(things, "ClusterRole")):
        for rule in role["rules"]:
            assert "*" not in {*rule["verbs"], *rule["resources"], *rule["apiGroups"]}
            assert "secrets" not in rule["resources"]
            if {"tokenreviews", "subjectaccessreviews"} & set(rule["resources"]):
                assert rule["verbs"] == ["create"]
            else:
                assert set(rule["verbs"]) <= {"get", "list", "watch"}
            assert not {"pods/exec", "pods/attach", "pods/portforward"} & set(rule["resources"])


def test_there_is_time_to_drain(things: list[Thing]) -> None:
    server = engine.configuration(things)["server"]
    grace = workload(things)["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace >= server["drain_period"] + server.get("shutdown_timeout", 10)


def test_every_name_in_the_address_bar_is_answered_for(things: list[Thing]) -> None:
    allowed = engine.configuration(things)["server"]["allowed_hosts"]
    for ingress in of_kind(things, "Ingress"):
        assert {it["host"] for it in ingress["spec"]["rules"]} <= set(allowed)
    for route in of_kind(things, "HTTPRoute"):
        assert set(route["spec"]["hostnames"]) <= set(allowed)
    for service in of_kind(things, "Service"):
        if service["spec"].get("clusterIP") != "None":
            assert service["metadata"]["name"] in allowed


def test_ingress_and_route_lead_to_the_service(things: list[Thing]) -> None:
    for ingress in of_kind(things, "Ingress"):
        for rule in ingress["spec"]["rules"]:
            (path,) = rule["http"]["paths"]
            service = only(things, "Service", path["backend"]["service"]["name"])
            assert path["backend"]["service"]["port"]["name"] in {
                it["name"] for it in service["spec"]["ports"]
            }
    for route in of_kind(things, "HTTPRoute"):
        (backend,) = route["spec"]["rules"][0]["backendRefs"]
        service = only(things, "Service", backend["name"])
        assert backend["port"] in {it["port"] for it in service["spec"]["ports"]}


def test_a_change_of_what_is_configured_rolls_the_pods(values: Thing, things: list[Thing]) -> None:
    before = workload(things)["spec"]["template"]["metadata"]["annotations"]
    after = workload(
        render({**values, "config": {**values.get("config", {}), "log": {"level": "error"}}})
    )
    assert (
        before["checksum/config"]
        != (after["spec"]["template"]["metadata"]["annotations"]["checksum/config"])
    )
    again = workload(render(values))["spec"]["template"]["metadata"]["annotations"]
    assert again == before


def test_alerts_are_promql_about_figures_that_exist(metric_names: set[str]) -> None:
    rule = only(render({"metrics": {"prometheusRule": {"enabled": True}}}), "PrometheusRule")
    rules = rule["spec"]["groups"][0]["rules"]
    assert len(rules) >= 5
    for it in rules:
        promql_parser.parse(it["expr"])
        used = set(re.findall(r"\balmenara_\w+", it["expr"].replace("rel-almenara", "")))
        assert used <= metric_names, it["alert"]


def test_credentials_are_mounted_as_files_that_only_the_group_reads() -> None:
    things = render(engine.read(SETS["secrets"]))
    pod = workload(things)["spec"]["template"]["spec"]
    volumes = {it["name"]: it.get("secret") for it in pod["volumes"]}
    assert volumes["secret-nats"] == {"secretName": "nats-credentials", "defaultMode": 0o440}
    assert volumes["secret-proxy"] == {"secretName": "rel-almenara-proxy", "defaultMode": 0o440}
    mounts = {it["name"]: it for it in pod["containers"][0]["volumeMounts"]}
    assert mounts["secret-nats"]["mountPath"] == "/etc/almenara/secrets/nats"
    assert mounts["secret-nats"]["readOnly"] is True


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
def test_the_policy_lets_in_those_who_are_named_or_else_only_where_somebody_is_to_come(
    values: Thing, others: list[Thing]
) -> None:
    things = render(values)
    (rule,) = only(things, "NetworkPolicy")["spec"]["ingress"]
    own = only(things, "NetworkPolicy")["spec"]["podSelector"]
    assert rule["from"] == [*others, {"podSelector": own}]


def test_the_policy_opens_the_ports_of_what_is_configured() -> None:
    things = render(engine.read(SETS["http-only"]))
    rules = only(things, "NetworkPolicy")["spec"]["egress"]
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
    ],
)  # fmt: skip
def test_the_policy_opens_the_ports_of_whatever_is_spoken_to(
    values: Thing, expected: set[int]
) -> None:
    rules = only(render(values), "NetworkPolicy")["spec"]["egress"]
    assert expected <= {port["port"] for rule in rules for port in rule["ports"]}


def test_what_is_installed_fits_what_the_pod_may_write() -> None:
    pod = workload(render(engine.read(SETS["plugin-install"])))["spec"]["template"]["spec"]
    (install,) = [it for it in pod["initContainers"] if it["name"] == "install"]
    # The volume of 512 MiB, and what a container may write by default.
    assert install["resources"]["limits"]["ephemeral-storage"] == str((512 + 256) * 2**20)


def test_a_simulated_cluster_stands_alone_and_is_granted_nothing() -> None:
    things = render(engine.read(SETS["simulated"]))
    assert "clusters" not in engine.configuration(things)["plugins"]["kubernetes"]
    assert not [it for it in things if it["kind"] in ("ClusterRole", "Role")]


def test_what_the_bus_may_hold_fits_its_volume() -> None:
    assert engine.configuration(render({}))["storage"]["retention_size"] == 8 * 2**30
    given = engine.configuration(render(engine.read(SETS["retention-given"])))
    assert given["storage"]["retention_size"] == 10737418240


def test_the_claim_is_kept_unless_told_otherwise() -> None:
    claim = only(render({}), "PersistentVolumeClaim")
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    claim = only(render({"persistence": {"keep": False}}), "PersistentVolumeClaim")
    assert "annotations" not in claim["metadata"]


@pytest.mark.parametrize(
    ("values", "key", "value"),
    [
        ({"className": "nginx"}, "nginx.ingress.kubernetes.io/proxy-read-timeout", "3600"),
        ({"className": "nginx"}, "nginx.ingress.kubernetes.io/proxy-send-timeout", "3600"),
        ({"className": "traefik"}, "traefik.ingress.kubernetes.io/router.tls", "true"),
        (
            {"controller": "traefik"},
            "traefik.ingress.kubernetes.io/router.entrypoints",
            "websecure",
        ),
    ],
)
def test_each_controller_is_told_what_it_needs(values: Thing, key: str, value: str) -> None:
    things = render({"ingress": {"enabled": True, "host": "a.example.org", **values}})
    assert only(things, "Ingress")["metadata"]["annotations"][key] == value


def test_notes_say_the_address_and_what_to_check() -> None:
    notes = engine.files(engine.read(SETS["ingress-nginx"]))["almenara/templates/NOTES.txt"]
    assert "https://almenara.example.org/" in notes
    assert "almenara doctor" in notes
    assert "helm --namespace watch test rel" in notes
    without = engine.files({"persistence": {"enabled": False}})["almenara/templates/NOTES.txt"]
    assert "last as long as the pod" in without
    assert "Every pod of the cluster may reach the web port" in notes
    assert "Nothing but kubectl port-forward reaches the web port" in without
    narrow = engine.files(engine.read(SETS["network-policy-narrow"]))
    assert "the web port" not in narrow["almenara/templates/NOTES.txt"]


def test_every_key_of_the_schema_is_described() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    missing = []

    def look(node: object, path: str) -> None:
        if isinstance(node, dict):
            for name, told in node.get("properties", {}).items():
                if isinstance(told, dict) and not told.get("description"):
                    missing.append(f"{path}.{name}")
            if node.get("type") == "object" and "properties" in node and path != "$.allOf":
                assert (
                    node.get("additionalProperties") is not None
                    or "kubernetes" in path
                    or ("io.k8s" in path)
                ), path
            for name, it in node.items():
                look(it, f"{path}.{name}")
        elif isinstance(node, list):
            for it in node:
                look(it, path)

    look({name: it for name, it in schema.items() if name != "allOf"}, "$")
    assert missing == []


def test_the_chart_tells_artifact_hub_what_it_is() -> None:
    told = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    annotations = told["annotations"]
    (image,) = yaml.safe_load(annotations["artifacthub.io/images"])
    assert image["image"].endswith(f":{told['appVersion']}")
    assert {"kind", "description"} <= yaml.safe_load(annotations["artifacthub.io/changes"])[
        0
    ].keys()
    assert Path(CHART / "README.md").is_file()
