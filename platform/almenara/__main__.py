"""`python -m almenara`."""

from almenara.cli import main

main()
