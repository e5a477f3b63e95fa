"""`python -m almenara`."""

from almenara.cli.main import main

main()
