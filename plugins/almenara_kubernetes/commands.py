"""`almenara kubernetes`."""

from collections.abc import Callable, Sequence
from typing import Any

import click

from almenara.settings import SettingsError
from almenara_kubernetes.rbac import roles, written
from almenara_kubernetes.settings import ClusterSettings, KubernetesSettings


def commands(read_settings: Callable[[], Any]) -> Sequence[click.Command]:
    """The commands of the plugin."""

    @click.group()
    def kubernetes() -> None:
        """What Almenara needs of Kubernetes."""

    @kubernetes.command()
    @click.option("--cluster", default="", metavar="NAME", help="One of several clusters.")
    @click.option(
        "--service-account", default="", metavar="NAMESPACE/NAME", help="Bind the rules to it."
    )
    def rbac(cluster: str, service_account: str) -> None:
        """Print the Roles or the ClusterRole that the configuration needs, as YAML."""
        if service_account and service_account.count("/") != 1:
            raise click.ClickException("--service-account is NAMESPACE/NAME")
        try:
            settings: KubernetesSettings = read_settings()
        except SettingsError as error:
            raise click.ClickException(str(error)) from None
        found = [it for it in settings.clusters or [ClusterSettings()] if cluster in ("", it.name)]
        if not found:
            raise click.ClickException(f"no cluster is named {cluster!r}")
        if len(found) > 1:
            names = ", ".join(it.name for it in found)
            raise click.ClickException(f"there are several clusters; name one of {names}")
        click.echo(
            "---\n".join(written(dict(it)) for it in roles(settings, found[0], service_account)),
            nl=False,
        )

    return [kubernetes]
