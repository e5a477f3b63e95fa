"""What the image installs is pinned for each extra, and the same as everywhere else."""

import re
import tomllib

import pytest

from support.paths import ROOT

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
    "optional-dependencies"
].keys() - {"demo", "testing"}
"""What an operator may want; the others are for those who develop or try it."""


def pins(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / name).read_text("utf-8")
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", text, re.MULTILINE))


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_extra_is_pinned_and_in_image(extra: str) -> None:
    result = pins(f"image/{extra}.txt")
    assert result.items() <= pins("run.txt").items()
    assert pins("image/core.txt").items() <= result.items()
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    (default,) = re.findall(r'^ARG EXTRAS="(.*)"', dockerfile, re.MULTILINE)
    assert extra in default.split()


@pytest.mark.parametrize("name", ["image/core.txt", "image/build.txt", "chart.txt", "site.txt"])
def test_pins_have_hashes(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text("utf-8")
    requirements = [it for it in text.split("\n") if re.match(r"[a-z0-9]", it)]
    assert requirements
    assert text.count("--hash=sha256:") >= len(requirements)
    assert "://" not in text
