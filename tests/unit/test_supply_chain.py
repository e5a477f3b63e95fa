"""What Almenara is made of, written down; and an audit that does not pass for one it was not."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from packaging.utils import canonicalize_name

from support.paths import ROOT


def test_sbom_lists_every_pinned_library_and_vendored_script(
    tmp_path: Path,
) -> None:
    target = tmp_path / "build" / "sbom.json"
    # It is checked against the schema of CycloneDX before it is written.
    subprocess.run([sys.executable, ROOT / ".ci/sbom", target], check=True, timeout=120)
    match = json.loads(target.read_text())
    assert (match["bomFormat"], match["specVersion"]) == ("CycloneDX", "1.6")
    assert match["metadata"]["component"]["name"] == "almenara"
    components = {
        (canonicalize_name(each["name"]), each["version"]): each for each in match["components"]
    }
    pinned = re.findall(r"^([\w.-]+)==([\w.+!-]+)", (ROOT / "requirements/run.txt").read_text(),
                        re.MULTILINE)  # fmt: skip
    assert len(pinned) > 40
    for name, version in pinned:
        each = components[canonicalize_name(name), version]
        assert each["purl"].startswith("pkg:pypi/")
        assert any(one.get("hashes") for one in each["externalReferences"]), name
    scripts = {each["name"] for one in match["components"] for each in one.get("components", ())}
    vendor = ROOT / "platform/almenara/web/static/vendor"
    assert {each.name for each in vendor.glob("*.js")} <= scripts


def test_audit_reports_an_unreachable_service() -> None:
    nowhere = "http://127.0.0.1:1"
    done = subprocess.run(
        [sys.executable, ROOT / ".ci/audit", ROOT / "requirements/run.txt"],
        env={**os.environ, "HTTPS_PROXY": nowhere, "HTTP_PROXY": nowhere, "NO_PROXY": "",
             "https_proxy": nowhere, "no_proxy": ""},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.startswith("SKIPPED: no service"), done.stdout + done.stderr
    assert done.returncode == 0
