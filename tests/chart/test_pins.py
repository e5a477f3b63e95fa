"""What the image installs is pinned for each extra, and the same as everywhere else."""

import re
import tomllib

import pytest

from support.paths import ROOT

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
    "optional-dependencies"
].keys() - {"demo", "testing", "parquet"}
"""What an operator may want; the others are for those who develop or try it, or too large."""

DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")


def pins(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / name).read_text("utf-8")
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", text, re.MULTILINE))


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_extra_is_pinned_and_in_image(extra: str) -> None:
    result = pins(f"image/{extra}.txt")
    assert result.items() <= pins("run.txt").items()
    assert pins("image/core.txt").items() <= result.items()
    (default,) = re.findall(r'^ARG EXTRAS="(.*)"', DOCKERFILE, re.MULTILINE)
    assert extra in default.split()


def test_large_extra_is_pinned_and_not_in_default_image() -> None:
    result = pins("image/parquet.txt")
    assert result.items() <= pins("dev.txt").items()
    assert result.keys() - pins("image/core.txt").keys() == {"pyarrow"}
    assert pins("image/core.txt").items() <= result.items()
    assert "pyarrow" not in pins("run.txt")
    assert "parquet" not in re.findall(r'^ARG EXTRAS="(.*)"', DOCKERFILE, re.MULTILINE)[0].split()


@pytest.mark.parametrize(
    "name", ["image/core.txt", "image/parquet.txt", "image/build.txt", "chart.txt", "site.txt"]
)
def test_pins_have_hashes(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text("utf-8")
    requirements = [each for each in text.split("\n") if re.match(r"[a-z0-9]", each)]
    assert requirements
    assert text.count("--hash=sha256:") >= len(requirements)
    assert "://" not in text
