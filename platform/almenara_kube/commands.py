"""`almenara kubernetes`: the permissions that the configuration needs in Kubernetes."""

from collections.abc import Callable, Sequence

import click

from almenara.config import ConfigError
from almenara.hookspecs import Requirement
from almenara_kube.roles import dump_manifest, group_by_cluster, make_roles
from almenara_kube.rules import KubernetesRule


def kubernetes_commands(read_requirements: Callable[[], Sequence[Requirement]]) -> click.Group:
    """The group of commands `almenara kubernetes`."""

    @click.group()
    def kubernetes() -> None:
        """Work with Kubernetes."""

    @kubernetes.command()
    @click.option("--cluster", default="", metavar="NAME", help="One of several clusters.")
    @click.option(
        "--service-account", default="", metavar="NAMESPACE/NAME", help="Bind the rules to it."
    )
    def rbac(cluster: str, service_account: str) -> None:
        """Print the Roles and the ClusterRole that the configuration needs, as YAML.

        They cover the requirements of all plugins.
        """
        if service_account and service_account.count("/") != 1:
            raise click.ClickException("--service-account is NAMESPACE/NAME")
        try:
            requirements = read_requirements()
        except (ConfigError, RuntimeError) as error:
            raise click.ClickException(str(error)) from None
        rules = [rule for rule in requirements if isinstance(rule, KubernetesRule)]
        if not rules:
            raise click.ClickException(
                "the configuration needs no permission in Kubernetes; name a cluster to watch in"
                " the configuration first (--config)"
            )
        clusters = group_by_cluster(rules)
        if cluster and cluster not in clusters:
            raise click.ClickException(
                f"no cluster is named {cluster!r}; known: {', '.join(clusters)}"
            )
        if not cluster and len(clusters) > 1:
            raise click.ClickException(
                f"there are several clusters; name one with --cluster: {', '.join(clusters)}"
            )
        chosen = clusters[cluster or next(iter(clusters))]
        click.echo("---\n".join(map(dump_manifest, make_roles(chosen, service_account))), nl=False)

    return kubernetes
