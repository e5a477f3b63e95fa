"""The documentation site: which pages it has, how links are rewritten, and which are refused."""

import importlib.machinery
import importlib.util
import types
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "site"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The script, on an empty repository."""
    loader = importlib.machinery.SourceFileLoader("site_script", str(SCRIPT))
    spec = importlib.util.spec_from_loader("site_script", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "SOURCE", tmp_path / "build" / "site-source")
    monkeypatch.setattr(module, "SITE", tmp_path / "build" / "site")
    return module


def write(root: Path, **files: str) -> None:
    """Write files; in their names `__` stands for a slash and the suffix is .md."""
    for name, text in files.items():
        file = root / f"{name.replace('__', '/')}.md"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def read_staged(root: Path, page: str) -> str:
    return (root / "build/site-source/docs" / page).read_text()


def test_stage_makes_pages_of_plugin_and_chart_readmes(
    site: types.ModuleType, tmp_path: Path
) -> None:
    write(tmp_path, docs__index="[ray](../plugins/almenara_ray/README.md#jobs)\n"
          "[chart](../helm/almenara/README.md)\n", plugins__almenara_ray__README="# Ray\n",
          helm__almenara__README="[start](../../README.md)\n", README="# Almenara\n")  # fmt: skip
    site.Stage().write()
    assert read_staged(tmp_path, "index.md") == (
        "[ray](integrations/ray.md#jobs)\n[chart](operations/chart.md)\n"
    )
    assert read_staged(tmp_path, "integrations/ray.md") == "# Ray\n"
    assert read_staged(tmp_path, "operations/chart.md") == "[start](../index.md)\n"


def test_stage_shows_other_linked_files_as_pages(site: types.ModuleType, tmp_path: Path) -> None:
    write(tmp_path, docs__guide__index="See [the example](../../code/run.py).\n")
    (tmp_path / "code").mkdir()
    (tmp_path / "code/run.py").write_text("print('`x`')\n")
    site.Stage().write()
    assert (
        read_staged(tmp_path, "guide/index.md") == "See [the example](../files/code/run.py.md).\n"
    )
    assert "````python\nprint('`x`')\n````" in read_staged(tmp_path, "files/code/run.py.md")


def test_stage_leaves_code_and_web_addresses_unchanged(
    site: types.ModuleType, tmp_path: Path
) -> None:
    text = "`[a](none.md)` [b](https://example.org/x) [c](#d)\n\n```\n[e](none.md)\n```\n"
    write(tmp_path, docs__index=text)
    site.Stage().write()
    assert read_staged(tmp_path, "index.md") == text


@pytest.mark.parametrize(
    "link", ["[a](none.md)", "![a](none.png)", '<img src="none.png">', "[a]: none.md"]
)
def test_stage_refuses_broken_link(site: types.ModuleType, tmp_path: Path, link: str) -> None:
    write(tmp_path, docs__index=f"# Title\n\n{link}\n")
    with pytest.raises(site.BrokenLinkError, match=r"^docs/index.md:3: none.* does not exist$"):
        site.Stage().write()


def test_stage_refuses_link_out_of_repository(site: types.ModuleType, tmp_path: Path) -> None:
    write(tmp_path, docs__index="[a](../../../etc)\n")
    with pytest.raises(site.BrokenLinkError):
        site.Stage().write()


def test_navigation_lists_new_pages_by_folder(site: types.ModuleType, tmp_path: Path) -> None:
    write(tmp_path, docs__operations__README="[b](b.md) [a](a.md)\n", docs__operations__a="",
          docs__operations__b="", docs__operations__new="", docs__index="", docs__extra="",
          docs__new_folder__page="", CHANGELOG="")  # fmt: skip
    stage = site.Stage()
    stage.write()
    assert site.make_navigation(list(stage.pages.values())) == [
        {"Home": "index.md"},
        {"Operations": [
            "operations/README.md", "operations/b.md", "operations/a.md", "operations/new.md",
        ]},
        {"New folder": ["new_folder/page.md"]},
        {"Reference": ["extra.md"]},
        {"Project": ["changelog.md"]},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("html", "problem"),
    [
        ('<a href="none/">x</a>', "none/ does not exist"),
        ('<a href="other/#none">x</a>', "names no heading"),
        ('<script src="https://cdn.example/x.js"></script>', "loaded from another host"),
        ('<link href="//fonts.example/x.css">', "loaded from another host"),
        ('<img src="none.png">', "none.png does not exist"),
    ],
)
def test_built_site_problems_are_reported(
    site: types.ModuleType, tmp_path: Path, html: str, problem: str
) -> None:
    built = tmp_path / "build/site"
    (built / "other").mkdir(parents=True)
    (built / "other/index.html").write_text('<h1 id="here">x</h1><a href="../#top">x</a>')
    (built / "index.html").write_text('<a id="top" href="other/#here">x</a>')
    assert list(site.find_problems()) == []
    (built / "index.html").write_text(f'<a id="top" href="https://example.org">x</a>{html}')
    (matches,) = site.find_problems()
    assert problem in matches


def test_stylesheet_from_another_host_is_reported(site: types.ModuleType, tmp_path: Path) -> None:
    built = tmp_path / "build/site"
    built.mkdir(parents=True)
    (built / "a.css").write_text("a { background: url(data:image/png;base64,) }")
    assert list(site.find_problems()) == []
    (built / "a.css").write_text("@import 'https://fonts.example/x.css';")
    assert list(site.find_problems()) == ["a.css loads from another host"]
