"""The command line."""

from almenara.cli.main import main

__all__ = ["main"]
