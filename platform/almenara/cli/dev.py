"""`almenara dev`: serve, and reload plugins when their files change."""

from pathlib import Path

import rich_click as click

from almenara.cli.common import (
    CONFIG_OPTION,
    PLUGINS_DIR_OPTION,
    CommandError,
    override_options,
    read_settings,
)
from almenara.cli.serve import HOST_OPTION, PORT_OPTION, run_server


@click.command()
@CONFIG_OPTION
@PLUGINS_DIR_OPTION
@HOST_OPTION
@PORT_OPTION
@click.pass_context
def dev(
    context: click.Context,
    config: Path | None,
    plugins_dir: Path | None,
    host: str | None,
    port: int | None,
) -> None:
    """Serve, and reload the plugins of the plugins directory when a file is saved.

    The bus, the other sources and open pages keep running.
    """
    override_options(context, config=config, plugins_dir=plugins_dir)
    settings = read_settings(context)
    if settings.plugins_dir is None:
        raise CommandError("Name the directory to watch: almenara dev --plugins-dir DIRECTORY")
    run_server(context, settings, host, port, reload=True)
