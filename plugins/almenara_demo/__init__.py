"""The demo: `almenara demo` runs a NATS server, a simulated fleet, a Ray cluster and Almenara."""

from collections.abc import Callable, Sequence
from typing import Any

import click

import almenara


@almenara.hookimpl
def almenara_commands(read_settings: Callable[[], Any]) -> Sequence[click.Command]:
    from almenara_demo.command import demo

    return [demo]
