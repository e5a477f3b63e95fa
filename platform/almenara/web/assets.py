"""Static files under names with the hash of their content, so that browsers cache them forever."""

import hashlib
import json
from pathlib import Path
from typing import Final

import msgspec

from almenara.errors import AlmenaraError

FOLDER: Final = Path(__file__).parent / "static"
MANIFEST: Final = FOLDER / "vendor" / "vendored.json"
MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".woff2": "font/woff2",
}
"""The types that are served; other files in the folder are not for browsers."""
HASH_LENGTH: Final = 12
PLUGIN_STYLE_SHEET: Final = "panels.css"
"""The style sheet of a plugin, which every page loads."""


class ChangedScriptError(AlmenaraError):
    """A vendored script is not the one that was released; the text names it."""


class Asset(msgspec.Struct, frozen=True):
    """One static file."""

    content: bytes
    media_type: str
    is_public: bool = True
    """Whether it is served before sign-in. Files of plugins are not: they tell which are loaded."""


class Assets:
    """The static files, read once when the server starts."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._urls: dict[str, str] = {}
        self._assets: dict[str, Asset] = {}
        self.add("", folder)

    def add(self, prefix: str, folder: Path) -> None:
        """Read the files of a folder, under `<prefix>/` where one is given."""
        for path in sorted(folder.rglob("*")):
            media_type = MEDIA_TYPES.get(path.suffix)
            if media_type is None or not path.is_file():
                continue
            name = "/".join(filter(None, (prefix, path.relative_to(folder).as_posix())))
            content = path.read_bytes()
            digest = hashlib.sha256(content).hexdigest()[:HASH_LENGTH]
            hashed = f"{name.removesuffix(path.suffix)}.{digest}{path.suffix}"
            self._urls[name] = f"/static/{hashed}"
            self._assets[hashed] = Asset(content, media_type, is_public=not prefix)

    def __contains__(self, name: str) -> bool:
        return name in self._urls

    def url(self, name: str) -> str:
        """Return the address of a file. Raises `KeyError` for an unknown one."""
        return self._urls[name]

    def plugin_style_sheets(self) -> list[str]:
        """Return the addresses of the style sheets of plugins."""
        return [url for name, url in self._urls.items() if name.endswith(f"/{PLUGIN_STYLE_SHEET}")]

    def find(self, hashed_name: str) -> Asset | None:
        """Return the file behind an address without its leading `/static/`; None if unknown."""
        return self._assets.get(hashed_name.lstrip("/"))


def check_vendored(folder: Path = FOLDER / "vendor") -> None:
    """Raise `ChangedScriptError` where a vendored script is not the one that was released."""
    if changed := find_changed_vendored(folder):
        raise ChangedScriptError(
            f"{', '.join(changed)} in {folder} differ from what was released, and browsers would"
            " run them. Install Almenara again."
        )


def find_changed_vendored(folder: Path = FOLDER / "vendor") -> list[str]:
    """Return the vendored files that differ from their package, by the hashes in the manifest."""
    manifest = json.loads((folder / MANIFEST.name).read_text())
    return [
        file["name"]
        for package in manifest["packages"]
        for file in package["files"]
        if not (folder / file["name"]).is_file()
        or hashlib.sha256((folder / file["name"]).read_bytes()).hexdigest() != file["sha256"]
    ]
