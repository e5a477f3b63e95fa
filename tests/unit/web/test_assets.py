"""Static files: addresses that change with the content, and unchanged vendored files."""

import shutil
from pathlib import Path

import pytest

from almenara.web.assets import (
    FOLDER,
    Assets,
    ChangedScriptError,
    check_vendored,
    find_changed_vendored,
)
from support.paths import ROOT

SINKS = (b".innerHTML", b".outerHTML", b"insertAdjacentHTML", b"document.write", b"eval(")


def test_assets_url_changes_with_the_content(tmp_path: Path) -> None:
    (tmp_path / "page.css").write_text("a{}")
    before = Assets(tmp_path).url("page.css")
    (tmp_path / "page.css").write_text("b{}")
    after = Assets(tmp_path)
    assert before != after.url("page.css")
    asset = after.find(after.url("page.css").removeprefix("/static/"))
    assert asset is not None
    assert (asset.content, asset.media_type) == (b"b{}", "text/css; charset=utf-8")


def test_assets_serve_only_files_for_browsers(tmp_path: Path) -> None:
    (tmp_path / "renew.py").write_text("secret = 1")
    (tmp_path / "page.js").write_text("")
    assets = Assets(tmp_path)
    hashed = assets.url("page.js").removeprefix("/static/")
    assert assets.find(hashed) is not None
    for name in ("page.js", "renew.py", "../page.js", "", hashed + "/..", "/etc/passwd"):
        assert assets.find(name) is None


def test_vendored_files_match_their_packages() -> None:
    assert find_changed_vendored() == []
    check_vendored()


def test_changed_vendored_file_is_refused_at_start(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(FOLDER / "vendor", tmp_path / "vendor"))
    check_vendored(folder)
    with (folder / "htmx.min.js").open("a") as file:
        file.write("//")
    with pytest.raises(ChangedScriptError, match=r"htmx\.min\.js in .* Install Almenara again"):
        check_vendored(folder)


def test_scripts_and_templates_comply_with_the_content_security_policy() -> None:
    assets = Assets()
    scripts = [*Path(ROOT / "platform/almenara/web/static").glob("*.js")]
    names = [*(script.name for script in scripts), "vendor/uplot.min.js"]
    assert "charts.js" in names
    for name in names:
        script = assets.find(assets.url(name).removeprefix("/static/"))
        assert script is not None
        for sink in SINKS:
            assert sink not in script.content, name
    templates = ROOT / "platform/almenara"
    for template in templates.glob("*/templates/*.html"):
        text = template.read_text()
        assert " style=" not in text, template.name
        assert "onclick=" not in text, template.name
        assert "|safe" not in text or template.name == "event_list.html", template.name
