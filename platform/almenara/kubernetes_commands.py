"""`almenara kubernetes`: what the configuration needs of Kubernetes."""

from collections.abc import Callable

import click

from almenara.kubernetes_roles import by_cluster, roles, written
from almenara.plugins import PluginError, Plugins
from almenara.settings import Settings, SettingsError


def kubernetes_commands(plugins: Plugins, read_settings: Callable[[], Settings]) -> click.Group:
    """The commands."""

    @click.group()
    def kubernetes() -> None:
        """What Almenara needs of Kubernetes."""

    @kubernetes.command()
    @click.option("--cluster", default="", metavar="NAME", help="One of several clusters.")
    @click.option(
        "--service-account", default="", metavar="NAMESPACE/NAME", help="Bind the rules to it."
    )
    def rbac(cluster: str, service_account: str) -> None:
        """Print the Roles and the ClusterRole that the configuration needs, as YAML.

        They are those of all plugins that say what they need.
        """
        if service_account and service_account.count("/") != 1:
            raise click.ClickException("--service-account is NAMESPACE/NAME")
        settings = read_settings()
        try:
            rules = [
                rule
                for name in plugins.modules
                for rule in plugins.kubernetes_rules(name, plugins.settings(name, settings))
            ]
        except (SettingsError, PluginError) as error:
            raise click.ClickException(str(error)) from None
        if not rules:
            raise click.ClickException(
                "nothing that is configured needs a right in Kubernetes; name a cluster to watch in"
                " the configuration first (--config)"
            )
        clusters = by_cluster(rules)
        if cluster and cluster not in clusters:
            raise click.ClickException(
                f"no cluster is named {cluster!r}; there is {', '.join(clusters)}"
            )
        if not cluster and len(clusters) > 1:
            raise click.ClickException(
                f"there are several clusters; name one of {', '.join(clusters)}"
            )
        chosen = clusters[cluster or next(iter(clusters))]
        click.echo(
            "---\n".join(written(dict(it)) for it in roles(chosen, service_account)), nl=False
        )

    return kubernetes
