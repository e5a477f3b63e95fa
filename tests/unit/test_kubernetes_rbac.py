"""The rules that are printed are those of the configuration, and never more."""

import pytest
import yaml
from click.testing import CliRunner

from almenara_kubernetes.commands import commands
from almenara_kubernetes.rbac import missing, roles
from almenara_kubernetes.settings import ClusterSettings, CustomResource, KubernetesSettings
from almenara_kubernetes.watched import PODS

EVERYTHING = KubernetesSettings(
    clusters=[ClusterSettings(name="a"), ClusterSettings(name="b", namespaces=["x", "y"])]
)


def rules_of(settings: KubernetesSettings, cluster: ClusterSettings) -> list[dict[str, list[str]]]:
    return [rule for it in roles(settings, cluster) for rule in it["rules"]]


@pytest.mark.parametrize("cluster", EVERYTHING.clusters)
def test_kubernetes_rules_only_ever_read_and_never_a_secret(cluster: ClusterSettings) -> None:
    for rule in rules_of(EVERYTHING, cluster):
        assert set(rule["verbs"]) <= {"get", "list", "watch"}
        assert not {"secrets", "configmaps", "pods/exec", "pods/log", "*"} & set(rule["resources"])
        assert "*" not in rule["apiGroups"]


def test_kubernetes_rules_for_pods_alone_are_for_pods_alone() -> None:
    chosen = KubernetesSettings(kinds=["pod"], usage=False)
    pods = {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}
    assert rules_of(chosen, ClusterSettings()) == [pods]
    (role,) = roles(chosen, ClusterSettings(namespaces=["x"]))
    assert (role["kind"], role["metadata"]["namespace"]) == ("Role", "x")
    (rule,) = yaml.safe_load(missing(PODS, "x"))
    assert rule == pods


def test_kubernetes_logs_are_in_the_rules_only_where_they_are_switched_on() -> None:
    chosen = KubernetesSettings(kinds=["pod"], usage=False, logs=True)
    logs = {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]}
    assert logs in rules_of(chosen, ClusterSettings())


def test_a_role_in_a_namespace_never_grants_what_is_outside_of_namespaces() -> None:
    made = roles(EVERYTHING, EVERYTHING.clusters[1])
    assert {it["kind"] for it in made} == {"Role"}
    assert not any("nodes" in rule["resources"] for it in made for rule in it["rules"])


def test_almenara_kubernetes_rbac_prints_them_with_their_bindings() -> None:
    (group,) = commands(lambda: EVERYTHING)
    account = ["--cluster", "b", "--service-account", "almenara/almenara"]
    result = CliRunner().invoke(group, ["rbac", *account])
    assert result.exit_code == 0, result.output
    printed = list(yaml.safe_load_all(result.output))
    assert [it["kind"] for it in printed] == ["Role", "RoleBinding"] * 2
    several = CliRunner().invoke(group, ["rbac"])
    assert several.exit_code == 1
    assert "several clusters" in several.output


def test_secrets_cannot_be_watched_by_calling_them_custom() -> None:
    for group in ("", "core"):
        with pytest.raises(ValueError, match="custom takes"):
            CustomResource(group=group, version="v1", plural="secrets", kind="Secret")


def test_wrong_kubernetes_settings_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="kinds has 'pods'; the kinds are"):
        KubernetesSettings(kinds=["pods"])
    with pytest.raises(ValueError, match="give each a name"):
        KubernetesSettings(clusters=[ClusterSettings(), ClusterSettings(name="a")])
    with pytest.raises(ValueError, match="not both"):
        ClusterSettings(namespaces=["a"], namespace_selector="b=c")
