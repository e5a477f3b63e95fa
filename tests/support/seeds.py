"""Seeds of tests that choose at random: printed, so that a failure can be repeated."""

import os
import random


def choose_seed() -> int:
    """Return a random seed, or `ALMENARA_SEED`, which repeats an earlier run."""
    seed = int(os.environ.get("ALMENARA_SEED") or random.randrange(1_000_000))
    print("seed", seed, flush=True)
    return seed
