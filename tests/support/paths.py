"""Places in the repository that tests read from."""

from pathlib import Path
from typing import Final

TESTS: Final = Path(__file__).resolve().parents[1]
ROOT: Final = TESTS.parent
DOCS: Final = ROOT / "docs"
FIXTURES: Final = TESTS / "fixtures"
