"""Fetch the vendored files again: `python renew.py [package@version ...]`, with npm on the path.

npm itself checks the package against the registry's checksum; what is written down here is the
checksum of every file taken from it, so that a change of a file without a renewal fails a test.
"""

import base64
import hashlib
import json
import subprocess  # nosec B404 # runs npm by hand
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parent
MANIFEST: Final = FOLDER / "vendored.json"
TOOK_TOO_LONG: Final = 120


def fetched(package: str, version: str, folder: Path) -> tuple[Path, str]:
    """The package's archive, downloaded by npm, and its checksum as npm states it."""
    result = subprocess.run(  # noqa: S603  # nosec B607, B603 # the npm of who runs it; constant arguments
        ["npm", "pack", f"{package}@{version}", "--json", "--pack-destination", str(folder)],  # noqa: S607
        check=True,
        capture_output=True,
        text=True,
        timeout=TOOK_TOO_LONG,
    )
    (packed,) = json.loads(result.stdout)
    archive = folder / packed["filename"]
    algorithm, _, stated = packed["integrity"].partition("-")
    actual = hashlib.new(algorithm, archive.read_bytes()).digest()
    if actual != base64.b64decode(stated):
        raise SystemExit(f"{archive.name} does not match the checksum that npm states for it")
    return archive, packed["integrity"]


def renew(package: dict[str, Any], version: str) -> dict[str, Any]:
    """Write the package's files here; its new entry of the manifest."""
    with tempfile.TemporaryDirectory() as name:
        archive, integrity = fetched(package["package"], version, Path(name))
        if version == package["version"] and package["integrity"] not in ("", integrity):
            raise SystemExit(f"{package['package']} {version} is no longer what was vendored")
        files = []
        with tarfile.open(archive) as content:
            for file in package["files"]:
                member = content.extractfile("package/" + file["from"])
                if member is None:
                    raise SystemExit(f"{package['package']} {version} has no {file['from']}")
                data = member.read()
                (FOLDER / file["name"]).write_bytes(data)
                files.append({**file, "sha256": hashlib.sha256(data).hexdigest()})
    return {**package, "version": version, "integrity": integrity, "files": files}


def main() -> None:
    manifest = json.loads(MANIFEST.read_text())
    versions = dict(each.rsplit("@", 1) for each in sys.argv[1:])
    if unknown := set(versions) - {package["package"] for package in manifest["packages"]}:
        raise SystemExit(f"not vendored: {', '.join(sorted(unknown))}")
    manifest["packages"] = [
        renew(package, versions.get(package["package"], package["version"]))
        for package in manifest["packages"]
    ]
    MANIFEST.write_text(json.dumps(manifest, indent=2) + "\n")
    for package in manifest["packages"]:
        print(package["package"], package["version"], package["integrity"])  # noqa: T201


if __name__ == "__main__":
    main()
