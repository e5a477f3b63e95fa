"""`almenara config`: check and document the configuration."""

import json
from pathlib import Path

import rich_click as click

from almenara.cli.common import (
    CommandError,
    FilePath,
    configuration_error,
    override_options,
    printable_text,
    read_settings,
)
from almenara.cli.validation import validate_configuration
from almenara.config import ConfigError
from almenara.plugins import PluginRegistry, load_plugins


@click.group()
def config() -> None:
    """Check the configuration and print its documentation."""


@config.command()
@click.pass_obj
def document(plugins: PluginRegistry) -> None:
    """Print the reference of all settings as Markdown."""
    from almenara.config.reference import render_settings_reference

    click.echo(render_settings_reference(plugins.settings_types()), nl=False)


@config.command()
@click.pass_obj
def schema(plugins: PluginRegistry) -> None:
    """Print the JSON Schema of the configuration, including installed plugins."""
    from almenara.config.schema import build_schema

    click.echo(json.dumps(build_schema(plugins.settings_types()), indent=2))


@config.command()
@click.argument("file", required=False, type=FilePath)
@click.pass_context
def check(context: click.Context, file: Path | None) -> None:
    """Validate the configuration in FILE, or the one of --config."""
    override_options(context, config=file)
    settings = read_settings(context)
    try:
        plugins: PluginRegistry = (
            load_plugins(settings.plugins_dir, settings.disabled_plugins) if file else context.obj
        )
        validate_configuration(plugins, settings)
    except ConfigError as error:
        raise configuration_error(error) from None
    failed = [info for info in plugins.infos() if info.state == "failed"]
    for info in failed:
        click.echo(f"Plugin {info.name} failed: {printable_text(info.error or '')}", err=True)
    configured = [info.name for info in failed if info.name in settings.plugin_settings]
    if configured:
        raise CommandError(
            f"The configuration is valid, but {', '.join(configured)} cannot be used: fix or update"
            " each plugin, or remove it from `plugins`."
        )
    click.echo("The configuration is valid.")
