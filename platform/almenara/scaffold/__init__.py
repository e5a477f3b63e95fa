"""The scaffold of `almenara plugin new`: a distribution of one plugin, ready to install."""

import keyword
import re
from pathlib import Path
from typing import Final

import jinja2

from almenara import __version__
from almenara.plugins import installed_candidates

FILES: Final = Path(__file__).parent / "files"
"""The files of a plugin with a source and panels."""
NOTIFIER_FILES: Final = Path(__file__).parent / "notifier"
"""The files that a plugin with a notifier has instead."""
SUFFIX: Final = ".jinja"
NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")


def create(name: str, folder: Path, *, is_notifier: bool = False) -> list[Path]:
    """Write the files of a plugin named `name` into a new folder; return their paths.

    The plugin has a source and panels, or a notifier.

    Raises `ValueError` for an invalid or used name, `FileExistsError` for a folder that is not
    empty.
    """
    name = name.removeprefix("almenara-").replace("-", "_")
    if not NAME.fullmatch(name) or keyword.iskeyword(name):
        raise ValueError(
            f"{name!r} is not a valid plugin name; use lower-case letters, digits and _, a letter"
            " first, such as `weather`"
        )
    origins = {candidate.name: candidate.origin for candidate in installed_candidates()}
    if name in origins:
        raise ValueError(f"plugin {name} exists already, in {origins[name]}; choose another name")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(
            f"{folder} exists and is not empty; choose another folder with --into"
        )
    roots = [NOTIFIER_FILES, FILES] if is_notifier else [FILES]
    environment = jinja2.Environment(  # nosec B701 # writes Python and Markdown, not pages
        loader=jinja2.FileSystemLoader(roots),
        autoescape=False,  # noqa: S701
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        variable_start_string="<<",
        variable_end_string=">>",
        block_start_string="<%",
        block_end_string="%>",
        comment_start_string="<#",
        comment_end_string="#>",
    )
    words = name.replace("_", " ")
    values = {
        "name": name,
        "distribution": f"almenara-{name.replace('_', '-')}",
        "package": f"almenara_{name}",
        "struct": "".join(part.capitalize() for part in name.split("_")),
        "title": words.capitalize(),
        "version": __version__,
    }
    paths = []
    for template in environment.list_templates(filter_func=lambda name: name.endswith(SUFFIX)):
        place = template.removesuffix(SUFFIX)
        target = folder / place.replace("PACKAGE", values["package"]).replace("DOT", ".")
        text = environment.get_template(template).render(values)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        paths.append(target)
    return paths
