"""`almenara`, also as `python -m almenara`."""

import gc
from typing import Final

START_THRESHOLDS: Final = (100_000, 10, 10)
"""What imports create stays; with the default thresholds the garbage collector would traverse it a
dozen times. `almenara serve` sets its own once it runs."""


def main() -> None:
    """Run the command line of this process."""
    gc.set_threshold(*START_THRESHOLDS)
    from almenara.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
