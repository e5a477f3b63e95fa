"""Checkers of others, over all that is rendered; each finding is answered or none is left."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.chart import engine
from support.paths import ROOT

ANSWERED = yaml.safe_load((Path(__file__).parent / "answered.yaml").read_text("utf-8"))
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file for each set of values."""
    folder = tmp_path_factory.mktemp("rendered")
    for name, path in engine.value_sets().items():
        # One name for all, so that answers can name objects.
        values = {**engine.read(path), "nameOverride": "", "fullnameOverride": ""}
        things = engine.render(values)
        (folder / f"{name}.yaml").write_text(yaml.safe_dump_all(things), "utf-8")
    return folder


def unanswered(checker: str, findings: Iterator[tuple[str, str, str]]) -> list[str]:
    """What is left of findings, each an id, a set of values and a text, after the answers."""
    left = []
    for code, name, text in findings:
        answers = [
            it for it in ANSWERED[checker]
            if it["id"] == code and name in it.get("in", [name]) and it.get("of", "") in text
        ]  # fmt: skip
        if not answers:
            left.append(f"{code} in {name}: {text}")
    return sorted(left)


def run(*command: str | Path) -> Any:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_checkov_finds_nothing_that_is_not_answered(rendered: Path) -> None:
    report = run(
        BIN / "checkov", "--directory", rendered, "--framework", "kubernetes", "--output", "json",
        "--compact", "--quiet", "--skip-download", "--soft-fail",
    )  # fmt: skip
    # A checker that silently looked at nothing would find nothing.
    assert report["summary"]["passed"] > 1000
    assert not report["summary"]["parsing_errors"]
    assert (
        unanswered(
            "checkov",
            (
                (
                    it["check_id"],
                    Path(it["file_path"]).stem,
                    f"{it['check_name']}: {it['resource']}",
                )
                for it in report["results"]["failed_checks"]
            ),
        )
        == []
    )


def test_trivy_finds_nothing_that_is_not_answered(rendered: Path) -> None:
    report = run(
        BIN / "trivy", "config", "--format", "json", "--skip-check-update", "--skip-version-check",
        "--disable-telemetry", "--quiet", rendered,
    )  # fmt: skip
    assert sum(it["MisconfSummary"]["Successes"] for it in report["Results"]) > 1000
    assert (
        unanswered(
            "trivy",
            (
                (it["ID"], Path(result["Target"]).stem, f"{it['Severity']} {it['Message']}")
                for result in report["Results"]
                for it in result.get("Misconfigurations", [])
            ),
        )
        == []
    )


def test_trivy_finds_nothing_in_the_chart_and_the_dockerfile(tmp_path: Path) -> None:
    for folder in ("helm/almenara", "Dockerfile"):
        report = run(
            BIN / "trivy", "config", "--format", "json", "--skip-check-update",
            "--skip-version-check", "--disable-telemetry", "--quiet", ROOT / folder,
        )  # fmt: skip
        assert report["Results"]
        assert (
            unanswered(
                "trivy",
                (
                    (it["ID"], "defaults", f"{it['Severity']} {it['Message']}")
                    for result in report["Results"]
                    for it in result.get("Misconfigurations", [])
                ),
            )
            == []
        )


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    done = subprocess.run(
        [BIN / "hadolint", "--format", "json", ROOT / "Dockerfile"],
        capture_output=True,
        check=False,
    )
    assert (
        unanswered(
            "hadolint",
            ((it["code"], "Dockerfile", it["message"]) for it in json.loads(done.stdout)),
        )
        == []
    )


def test_every_answer_has_a_reason() -> None:
    for answers in ANSWERED.values():
        assert all(it["reason"] for it in answers)
