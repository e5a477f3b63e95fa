"""Every set of values renders to objects that clusters take and reviewers let pass."""

import functools
import json
import re
from collections.abc import Iterator

import helm_python
import kubernetes_validate.utils
import promql_parser
import pytest
from cloudcoil.models.cert_manager import v1 as cert_manager
from cloudcoil.models.prometheus_operator import v1 as prometheus_operator

from support.chart import engine
from support.chart.engine import (
    CHART,
    Tree,
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
def values(name: str) -> Tree:
    return engine.read(SETS[name])


@pytest.fixture(scope="module")
def manifests(name: str) -> list[Tree]:
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


def test_value_sets_are_enough() -> None:
    assert len(SETS) >= 30


def test_lint_has_no_messages(values: Tree) -> None:
    report = helm_python.lint(CHART, values, strict=True, namespace="watch")
    assert not report["errors"]
    assert [each for each in report["messages"] if each["severity"] > 1] == []


@pytest.mark.parametrize("minor", MINORS)
@pytest.mark.usefixtures("schemas_read_once")
def test_manifests_match_schema_of_kubernetes_version(manifests: list[Tree], minor: str) -> None:
    for manifest in manifests:
        if manifest["kind"] not in CUSTOM.keys() | ELSEWHERE:
            taken(json.dumps(manifest, sort_keys=True), minor)


def test_custom_resources_match_models(manifests: list[Tree]) -> None:
    for manifest in manifests:
        if (model := CUSTOM.get(manifest["kind"])) is not None:
            read = model.model_validate(manifest)
            # The model leaves out what it does not know, so that this finds typing errors.
            assert json.loads(read.model_dump_json(by_alias=True, exclude_unset=True)) == manifest


def test_manifests_have_namespace_and_standard_labels(manifests: list[Tree]) -> None:
    for manifest in manifests:
        metadata = manifest["metadata"]
        if metadata["name"].endswith("-more"):
            continue
        if not manifest["kind"].startswith("Cluster"):
            assert metadata["namespace"]
        labels = {each.removeprefix("app.kubernetes.io/") for each in metadata["labels"]}
        assert {"name", "instance", "version", "component", "part-of", "managed-by",
                "helm.sh/chart"} <= labels  # fmt: skip


def test_manifest_names_are_unique(manifests: list[Tree]) -> None:
    names = [
        (each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"])
        for each in manifests
    ]
    assert len(names) == len(set(names))


def test_pods_comply_with_restricted_standard(values: Tree, manifests: list[Tree]) -> None:
    for _, pod in pods(manifests):
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


def test_probes_are_independent_of_observed_systems(manifests: list[Tree]) -> None:
    server = workload(manifests)["spec"]["template"]["spec"]["containers"][0]
    probes = {
        name: server[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")
    }
    assert {name: each["path"] for name, each in probes.items()} == {
        "startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz",
    }  # fmt: skip
    assert {each["port"] for each in probes.values()} == {server["ports"][0]["name"]}
    startup = server["startupProbe"]
    assert startup["failureThreshold"] * startup["periodSeconds"] >= 60


def test_selectors_match_only_the_server(manifests: list[Tree]) -> None:
    labels = workload(manifests)["spec"]["template"]["metadata"]["labels"]
    assert workload(manifests)["spec"]["selector"]["matchLabels"].items() <= labels.items()
    manifests = [
        each
        for each in manifests
        # Objects of the user need no labels.
        if each["metadata"].get("labels", {}).get("app.kubernetes.io/component") != "nats"
    ]
    for service in of_kind(manifests, "Service"):
        selector = service["spec"]["selector"]
        assert selector.items() <= labels.items()
        for manifest in manifests:
            if manifest["kind"] in ("Pod", "Job"):
                of_pod = manifest.get("spec", {}).get("template", manifest)["metadata"]["labels"]
                assert not selector.items() <= of_pod.items()
    for budget in of_kind(manifests, "PodDisruptionBudget"):
        assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()
    for monitor in of_kind(manifests, "ServiceMonitor"):
        expected = monitor["spec"]["selector"]["matchLabels"]
        chosen = [
            each
            for each in of_kind(manifests, "Service")
            if expected.items() <= each["metadata"]["labels"].items()
        ]
        assert len(chosen) == 1


def test_annotations_do_not_depend_on_secrets() -> None:
    made = [
        workload(render({"secrets": {"nats": {"data": {"password": word}}}}))["spec"]["template"]
        for word in ("hunter2", "another")
    ]
    assert made[0] == made[1]


def test_secrets_are_not_in_config_map_or_environment(manifests: list[Tree]) -> None:
    for manifest in of_kind(manifests, "ConfigMap"):
        assert "not-a-real-one" not in json.dumps(manifest)
    for _, pod in pods(manifests):
        for container in containers(pod):
            assert not any(
                "secretKeyRef" in each.get("valueFrom", {}) for each in container.get("env", [])
            )


def test_network_policy_denies_by_default(values: Tree, manifests: list[Tree]) -> None:
    policies = of_kind(manifests, "NetworkPolicy")
    if values.get("networkPolicy", {}).get("enabled") is False:
        assert policies == []
        return
    policy = only(manifests, "NetworkPolicy", "almenara") if len(policies) > 1 else policies[0]
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    labels = workload(manifests)["spec"]["template"]["metadata"]["labels"]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    for rule in policy["spec"]["ingress"]:
        assert rule["from"]
        assert rule["ports"] == [{"port": "http", "protocol": "TCP"}]
    for rule in policy["spec"]["egress"]:
        assert rule["ports"]


def test_roles_are_read_only_and_exclude_secrets(manifests: list[Tree]) -> None:
    for role in (*of_kind(manifests, "Role"), *of_kind(manifests, "ClusterRole")):
        for rule in role["rules"]:
            assert "*" not in {*rule["verbs"], *rule["resources"], *rule["apiGroups"]}
            assert "secrets" not in rule["resources"]
            if {"tokenreviews", "subjectaccessreviews"} & set(rule["resources"]):
                assert rule["verbs"] == ["create"]
            else:
                assert set(rule["verbs"]) <= {"get", "list", "watch"}
            assert not {"pods/exec", "pods/attach", "pods/portforward"} & set(rule["resources"])


def test_grace_period_covers_shutdown(manifests: list[Tree]) -> None:
    server = engine.configuration(manifests)["server"]
    grace = workload(manifests)["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace >= server["drain_period"] + server.get("shutdown_timeout", 10)


def test_allowed_hosts_include_all_routes(manifests: list[Tree]) -> None:
    allowed = engine.configuration(manifests)["server"]["allowed_hosts"]
    for ingress in of_kind(manifests, "Ingress"):
        assert {each["host"] for each in ingress["spec"]["rules"]} <= set(allowed)
    for route in of_kind(manifests, "HTTPRoute"):
        assert set(route["spec"]["hostnames"]) <= set(allowed)
    for service in of_kind(manifests, "Service"):
        is_web = "http" in {port["name"] for port in service["spec"]["ports"]}
        if is_web and service["spec"].get("clusterIP") != "None":
            assert service["metadata"]["name"] in allowed


def test_ingress_and_route_refer_to_the_service(manifests: list[Tree]) -> None:
    for ingress in of_kind(manifests, "Ingress"):
        for rule in ingress["spec"]["rules"]:
            (path,) = rule["http"]["paths"]
            service = only(manifests, "Service", path["backend"]["service"]["name"])
            assert path["backend"]["service"]["port"]["name"] in {
                each["name"] for each in service["spec"]["ports"]
            }
    for route in of_kind(manifests, "HTTPRoute"):
        (backend,) = route["spec"]["rules"][0]["backendRefs"]
        service = only(manifests, "Service", backend["name"])
        assert backend["port"] in {each["port"] for each in service["spec"]["ports"]}


def test_configuration_change_restarts_the_pod(values: Tree, manifests: list[Tree]) -> None:
    before = workload(manifests)["spec"]["template"]["metadata"]["annotations"]
    after = workload(
        render({**values, "config": {**values.get("config", {}), "log": {"level": "error"}}})
    )
    assert (
        before["checksum/config"]
        != (after["spec"]["template"]["metadata"]["annotations"]["checksum/config"])
    )
    again = workload(render(values))["spec"]["template"]["metadata"]["annotations"]
    assert again == before


def test_alerts_use_existing_metrics(metric_names: set[str]) -> None:
    rule = only(render({"metrics": {"prometheusRule": {"enabled": True}}}), "PrometheusRule")
    rules = rule["spec"]["groups"][0]["rules"]
    assert len(rules) >= 5
    for each in rules:
        promql_parser.parse(each["expr"])
        used = set(re.findall(r"\balmenara_\w+", each["expr"].replace("rel-almenara", "")))
        assert used <= metric_names, each["alert"]


def test_secrets_are_mounted_for_the_group_only() -> None:
    manifests = render(engine.read(SETS["secrets"]))
    pod = workload(manifests)["spec"]["template"]["spec"]
    volumes = {each["name"]: each.get("secret") for each in pod["volumes"]}
    assert volumes["secret-nats"] == {"secretName": "nats-credentials", "defaultMode": 0o440}
    assert volumes["secret-proxy"] == {"secretName": "rel-almenara-proxy", "defaultMode": 0o440}
    mounts = {each["name"]: each for each in pod["containers"][0]["volumeMounts"]}
    assert mounts["secret-nats"]["mountPath"] == "/etc/almenara/secrets/nats"
    assert mounts["secret-nats"]["readOnly"] is True


def test_install_container_storage_limit_fits() -> None:
    pod = workload(render(engine.read(SETS["plugin-install"])))["spec"]["template"]["spec"]
    (install,) = [each for each in pod["initContainers"] if each["name"] == "install"]
    # The volume of 512 MiB, and what a container may write by default.
    assert install["resources"]["limits"]["ephemeral-storage"] == str((512 + 256) * 2**20)


def test_simulated_cluster_has_no_permissions() -> None:
    manifests = render(engine.read(SETS["simulated"]))
    (cluster,) = engine.configuration(manifests)["plugins"]["kubernetes"]["clusters"]
    assert cluster == {"kubeconfig": "/etc/almenara/simulated.kubeconfig", "simulated": True}
    assert not [each for each in manifests if each["kind"] in ("ClusterRole", "Role")]


def test_retention_size_fits_the_volume() -> None:
    default = engine.configuration(render({}))
    assert default["storage"]["retention_size"] == 8 * 2**30
    assert default["samples"]["retention_size"] == 2**30
    assert default["checkpoints"]["retention_size"] == 10 * 2**30 * 3 // 100
    given = engine.configuration(render(engine.read(SETS["retention-given"])))
    assert given["storage"]["retention_size"] == 10737418240


def test_claim_is_kept_by_default() -> None:
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
def test_ingress_has_annotations_of_controller(values: Tree, key: str, value: str) -> None:
    manifests = render({"ingress": {"enabled": True, "host": "a.example.org", **values}})
    assert only(manifests, "Ingress")["metadata"]["annotations"][key] == value


def test_schema_describes_every_key() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    missing = []

    def look(node: object, path: str) -> None:
        if isinstance(node, dict):
            for name, property_ in node.get("properties", {}).items():
                if isinstance(property_, dict) and not property_.get("description"):
                    missing.append(f"{path}.{name}")
            if node.get("type") == "object" and "properties" in node and path != "$.allOf":
                is_closed = node.get("additionalProperties") is not None
                assert is_closed or "kubernetes" in path or "io.k8s" in path, path
            for name, each in node.items():
                look(each, f"{path}.{name}")
        elif isinstance(node, list):
            for each in node:
                look(each, path)

    look({name: each for name, each in schema.items() if name != "allOf"}, "$")
    assert missing == []
