"""Third-party checkers, over all rendered manifests: only accepted findings remain."""

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

ACCEPTED = yaml.safe_load((Path(__file__).parent / "accepted-findings.yaml").read_text("utf-8"))
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file for each set of values."""
    folder = tmp_path_factory.mktemp("rendered")
    for name, path in engine.value_sets().items():
        # The same names everywhere, so that accepted findings can refer to them.
        values = {**engine.read(path), "nameOverride": "", "fullnameOverride": ""}
        manifests = engine.render(values)
        (folder / f"{name}.yaml").write_text(yaml.safe_dump_all(manifests), "utf-8")
    return folder


def unaccepted(checker: str, findings: Iterator[tuple[str, str, str]]) -> list[str]:
    """Return the findings (id, value set, text) that are not accepted."""
    remaining = []
    for code, name, text in findings:
        reasons = [
            each for each in ACCEPTED[checker]
            if each["id"] == code and name in each.get("in", [name]) and each.get("of", "") in text
        ]  # fmt: skip
        if not reasons:
            remaining.append(f"{code} in {name}: {text}")
    return sorted(remaining)


def run(*command: str | Path) -> Any:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_checkov_reports_only_accepted_findings(rendered: Path) -> None:
    report = run(
        BIN / "checkov", "--directory", rendered, "--framework", "kubernetes", "--output", "json",
        "--compact", "--quiet", "--skip-download", "--soft-fail",
    )  # fmt: skip
    # A checker that read no file would find nothing.
    assert report["summary"]["passed"] > 1000
    assert not report["summary"]["parsing_errors"]
    assert (
        unaccepted(
            "checkov",
            (
                (
                    each["check_id"],
                    Path(each["file_path"]).stem,
                    f"{each['check_name']}: {each['resource']}",
                )
                for each in report["results"]["failed_checks"]
            ),
        )
        == []
    )


def test_trivy_reports_only_accepted_findings_in_manifests(rendered: Path) -> None:
    report = run(
        BIN / "trivy", "config", "--format", "json", "--skip-check-update", "--skip-version-check",
        "--disable-telemetry", "--quiet", rendered,
    )  # fmt: skip
    assert sum(each["MisconfSummary"]["Successes"] for each in report["Results"]) > 1000
    assert (
        unaccepted(
            "trivy",
            (
                (each["ID"], Path(result["Target"]).stem, f"{each['Severity']} {each['Message']}")
                for result in report["Results"]
                for each in result.get("Misconfigurations", [])
            ),
        )
        == []
    )


def test_trivy_reports_only_accepted_findings_in_sources(tmp_path: Path) -> None:
    for folder in ("helm/almenara", "Dockerfile"):
        report = run(
            BIN / "trivy", "config", "--format", "json", "--skip-check-update",
            "--skip-version-check", "--disable-telemetry", "--quiet", ROOT / folder,
        )  # fmt: skip
        assert report["Results"]
        assert (
            unaccepted(
                "trivy",
                (
                    (each["ID"], "defaults", f"{each['Severity']} {each['Message']}")
                    for result in report["Results"]
                    for each in result.get("Misconfigurations", [])
                ),
            )
            == []
        )


def test_hadolint_reports_only_accepted_findings() -> None:
    done = subprocess.run(
        [BIN / "hadolint", "--format", "json", ROOT / "Dockerfile"],
        capture_output=True,
        check=False,
    )
    assert (
        unaccepted(
            "hadolint",
            ((each["code"], "Dockerfile", each["message"]) for each in json.loads(done.stdout)),
        )
        == []
    )


def test_accepted_findings_have_reasons() -> None:
    for findings in ACCEPTED.values():
        assert all(each["reason"] for each in findings)
