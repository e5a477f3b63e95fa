"""The command `almenara demo`."""

import asyncio
from pathlib import Path
from typing import Any

import click


@click.command()
@click.option("--rate", default=20.0, show_default=True, type=click.FloatRange(0.1, 20000),
              help="Events per second.")  # fmt: skip
@click.option("--port", default=8080, show_default=True, type=click.IntRange(1, 65535),
              help="Port of Almenara.")  # fmt: skip
@click.option("--replicas", default=1, show_default=True, type=click.IntRange(1, 5),
              help="Replicas of Almenara, on a cluster of NATS servers and behind a balancer.",
)  # fmt: skip
@click.option("--nats-port", default=0, type=click.IntRange(0, 65535),
              help="Port of the NATS server; 0 for any free one.")  # fmt: skip
@click.option("--data-dir", default="var/demo", show_default=True,
              help="Folder for all data and logs.",
              type=click.Path(file_okay=False, path_type=Path))  # fmt: skip
@click.option("--seed", default=0, show_default=True,
              help="Seed of the simulation; the same seed repeats what happens.")  # fmt: skip
@click.option("--ray", default=None, type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Path of the program `ray`, to run a real cluster instead.")  # fmt: skip
@click.option("--neo4j", default=None,
              type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Path of a program that runs a Neo4j server, for a real context graph.",
)  # fmt: skip
@click.option("--vllm", default=None, type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Path of a Python with vLLM, to serve a tiny model for real.")  # fmt: skip
def demo(**options: Any) -> None:
    """Run a NATS server, a simulated fleet, a Ray cluster and Almenara until interrupted.

    The data folder keeps all events; the next demo continues with them. With several replicas, a
    process that exits is started again, so that you can kill one and watch what happens.
    """
    # Imported here, because every other command does without servers.
    from almenara_demo.processes import DemoError
    from almenara_demo.runner import Options, run_demo

    folder = options["data_dir"]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.ClickException(
            f"The folder {folder} cannot be created: {error.strerror}. Set --data-dir to another"
            " one."
        ) from None
    try:
        asyncio.run(run_demo(Options(**options)))
    except* DemoError as group:
        raise click.ClickException(str(group.exceptions[0])) from None
