"""The rules that are printed are those of the configuration, and never more."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from almenara.config import Settings
from almenara.hookspecs import Finding
from almenara.plugins import PluginRegistry, load_plugins, plugins_in_folder
from almenara.plugins.doctor import diagnose
from almenara_kube.access_review import describe_missing
from almenara_kube.commands import kubernetes_commands
from almenara_kube.roles import make_roles
from almenara_kube.rules import KubernetesRule
from almenara_kubernetes.kinds import PODS
from almenara_kubernetes.rbac import describe_missing as describe_rule, needed_rules
from almenara_kubernetes.settings import ClusterSettings, CustomResource, KubernetesSettings
from almenara_ray.kuberay_models import WATCHED as KUBERAY
from almenara_ray.permissions import list_rules as ray_rules
from almenara_ray.settings import KubeRaySettings, RaySettings
from support.command_line import run_almenara

NARROW = ClusterSettings(name="b", namespaces=["x", "y"])
EVERYTHING = [KubernetesSettings(clusters=[each]) for each in (ClusterSettings(name="a"), NARROW)]


def rules_of(settings: KubernetesSettings) -> list[dict[str, list[str]]]:
    return [rule for each in make_roles(needed_rules(settings)) for rule in each["rules"]]


def pods_alone(*namespaces: str, **more: Any) -> KubernetesSettings:
    return KubernetesSettings(
        clusters=[ClusterSettings(namespaces=list(namespaces))], kinds=["pod"], usage=False, **more
    )


@pytest.mark.parametrize("settings", EVERYTHING)
def test_rules_only_read_and_never_secrets(settings: KubernetesSettings) -> None:
    for rule in rules_of(settings):
        assert set(rule["verbs"]) <= {"get", "list", "watch"}
        assert not {"secrets", "configmaps", "pods/exec", "pods/log", "*"} & set(rule["resources"])
        assert "*" not in rule["apiGroups"]


def test_rules_for_pods_alone_grant_pods_alone() -> None:
    pods = {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}
    assert rules_of(pods_alone()) == [pods]
    (role,) = make_roles(needed_rules(pods_alone("x")))
    assert (role["kind"], role["metadata"]["namespace"]) == ("Role", "x")
    (rule,) = yaml.safe_load(describe_rule(PODS, "x"))
    assert rule == pods


def test_rules_grant_logs_only_where_enabled() -> None:
    logs = {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]}
    assert logs in rules_of(pods_alone(logs=True))


def test_rules_grant_yaml_only_where_enabled() -> None:
    get = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}
    assert get in rules_of(pods_alone(yaml=True))
    assert get not in rules_of(pods_alone(logs=True))


def test_role_of_a_namespace_grants_nothing_outside() -> None:
    made = make_roles(needed_rules(EVERYTHING[1]))
    assert {each["kind"] for each in made} == {"Role"}
    assert not any("nodes" in rule["resources"] for each in made for rule in each["rules"])


def test_rules_of_ray_grant_the_watched_kuberay_kinds() -> None:
    (rule,) = ray_rules(RaySettings(kuberay=[KubeRaySettings(namespaces=["ml"])]))
    assert (rule.group, rule.namespaces, rule.optional) == ("ray.io", ("ml",), True)
    assert set(rule.resources) == {each.plural for each in KUBERAY}
    assert ray_rules(RaySettings()) == []


def printed(of_plugins: dict[str, Any], *arguments: str) -> Result:
    settings = Settings(plugins=of_plugins)
    group = kubernetes_commands(lambda: load_plugins().requirements(settings))
    return CliRunner().invoke(group, ["rbac", *arguments])


def test_rbac_command_prints_roles_with_bindings() -> None:
    several = {"kubernetes": {"clusters": [
        {"name": "a", "kubeconfig": "/a"}, {"name": "b", "namespaces": ["x", "y"]}
    ]}}  # fmt: skip
    result = printed(several, "--cluster", "b", "--service-account", "almenara/almenara")
    assert result.exit_code == 0, result.output
    whole = list(yaml.safe_load_all(result.output))
    assert [each["kind"] for each in whole] == ["Role", "RoleBinding"] * 2
    for arguments, said in (
        ((), "several clusters; name one with --cluster: a, b"),
        (("--cluster", "c"), "no cluster is named 'c'; known: a, b"),
        (("--service-account", "almenara"), "NAMESPACE/NAME"),
    ):
        refused = printed(several, *arguments)
        assert refused.exit_code == 1
        assert said in refused.output
    assert "needs no permission in Kubernetes" in printed({}).output


def test_rbac_command_merges_the_rules_of_all_plugins() -> None:
    result = printed(
        {
            "kubernetes": {"clusters": [{"namespaces": ["ml"]}], "kinds": ["pod"], "usage": False},
            "ray": {"kuberay": [{"name": "here", "namespaces": ["ml"]}]},
        }
    )
    (role,) = yaml.safe_load_all(result.output)
    assert role["metadata"]["namespace"] == "ml"
    assert [(each["apiGroups"], each["resources"]) for each in role["rules"]] == [
        ([""], ["pods"]), (["ray.io"], ["rayclusters", "raycronjobs", "rayjobs", "rayservices"]),
    ]  # fmt: skip
    # Another kubeconfig is another cluster, by its path where it has no name.
    other = {"kubernetes": {"clusters": [{}]}, "ray": {"kuberay": [{"kubeconfig": "/etc/lab"}]}}
    assert "name one with --cluster: in-cluster, /etc/lab" in printed(other).output
    (role,) = yaml.safe_load_all(printed(other, "--cluster", "/etc/lab").output)
    assert role["kind"] == "ClusterRole"
    assert len(role["rules"]) == 1


@pytest.mark.anyio
async def test_review_reports_requirements_without_a_reviewer(tmp_path: Path) -> None:
    (tmp_path / "watcher.py").write_text(
        "import almenara\nfrom almenara_kube.rules import KubernetesRule\n"
        "@almenara.hookimpl\ndef almenara_requirements():\n"
        "    return [KubernetesRule(group='example.org', resources=('zones',), verbs=('list',))]\n"
    )
    plugins = PluginRegistry()
    for matches in plugins_in_folder(tmp_path):
        plugins.load(matches)
    (rule,) = plugins.requirements(Settings())
    assert isinstance(rule, KubernetesRule)
    (finding,) = await diagnose(plugins, Settings())
    assert isinstance(finding, Finding)
    assert finding.verdict == "warning"
    assert "no active plugin can review them" in finding.message


def test_describe_missing_is_short() -> None:
    pods = [("", "pods", "list"), ("", "pods", "watch")]
    assert describe_missing(
        {"ml": [*pods, ("ray.io", "rayjobs", "list"), ("ray.io", "rayjobs", "watch")]}
    ) == ("not granted: list, watch of pods, rayjobs.ray.io in the namespace ml")
    assert describe_missing({"": [("", "nodes", "list")], "x": pods}) == (
        "not granted: list of nodes in the whole cluster; list, watch of pods in the namespace x"
    )


def test_settings_refuse_secrets_as_custom_resources() -> None:
    for group in ("", "core"):
        with pytest.raises(ValueError, match="custom takes"):
            CustomResource(group=group, version="v1", plural="secrets", kind="Secret")


def test_settings_name_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="kinds has 'pods'; did you mean pod"):
        KubernetesSettings(kinds=["pods"])
    with pytest.raises(ValueError, match="give each a name"):
        KubernetesSettings(clusters=[ClusterSettings(), ClusterSettings(name="a")])
    with pytest.raises(ValueError, match="not both"):
        ClusterSettings(namespaces=["a"], namespace_selector="b=c")


def test_rbac_command_remains_where_only_ray_needs_it(tmp_path: Path) -> None:
    config = tmp_path / "almenara.yaml"
    config.write_text(
        "plugins: {disabled: [kubernetes], ray: {kuberay: [{namespaces: [ml]}]}}", "utf-8"
    )
    done = run_almenara(tmp_path, "--config", str(config), "kubernetes", "rbac")
    (role,) = yaml.safe_load_all(done.stdout)
    assert role["rules"][0]["apiGroups"] == ["ray.io"], done.stderr
    listed = run_almenara(tmp_path, "--help").stdout
    assert listed.count("Work with Kubernetes") == 1
