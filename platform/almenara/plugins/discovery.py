"""Discovery: plugins by entry point, in a plugins directory, or at a path."""

import importlib.metadata
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Final

import msgspec

from almenara.config import ConfigError, suggest
from almenara.errors import AlmenaraError

GROUP: Final = "almenara"
"""The entry point group, and pluggy's project name."""
EXTRA_REQUIREMENT: Final = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)[^;]*;\s*extra\s*==\s*['\"](?P<extra>[^'\"]+)['\"]\s*"
)
"""A requirement of an extra, as the metadata of a distribution has it, without further markers."""
FOLDER_PACKAGE: Final = "almenara_plugins_dir"
"""The package that the modules of a plugins directory are imported into."""


class PluginError(AlmenaraError):
    """A plugin cannot be used; the text names it and says why."""


class PluginCandidate(msgspec.Struct, frozen=True):
    """A plugin that has not been imported yet."""

    name: str
    origin: str
    version: str
    load: Callable[[], ModuleType | None]
    """The module; None where a library that it needs is not installed."""
    path: Path | None = None


FileStamps = dict[Path, tuple[int, int]]


def stamp_files(path: Path) -> FileStamps:
    """The modification time and size of each file of a plugin."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    stamps: FileStamps = {}
    for file in files:
        if "__pycache__" in file.parts:
            continue
        try:
            status = file.stat()
        except OSError:
            continue
        stamps[file] = (status.st_mtime_ns, status.st_size)
    return stamps


def installed_candidates() -> Iterator[PluginCandidate]:
    """The plugins of installed distributions: the entry points of the group `almenara`."""
    points = importlib.metadata.entry_points(group=GROUP)
    for point in sorted(points, key=lambda point: point.name):
        distribution = point.dist

        def load(point: importlib.metadata.EntryPoint = point) -> ModuleType | None:
            if point.dist is not None and missing_requirements(point.dist, point.name):
                # A plugin whose extra is not installed is absent, not an error.
                return None
            module: ModuleType = point.load()
            return module

        yield PluginCandidate(
            point.name,
            distribution.name if distribution else point.module,
            distribution.version if distribution else "",
            load,
        )


def missing_requirements(distribution: importlib.metadata.Distribution, extra: str) -> list[str]:
    """Return the distributions of an extra that are not installed."""
    missing = []
    for requirement in distribution.requires or ():
        match = EXTRA_REQUIREMENT.fullmatch(requirement)
        if match is not None and match["extra"] == extra:
            try:
                importlib.metadata.version(match["name"])
            except importlib.metadata.PackageNotFoundError:
                missing.append(match["name"])
    return missing


def find_plugin(plugin: str) -> PluginCandidate:
    """The installed plugin of this name, or the one at this path. Raises `PluginError`."""
    path = Path(plugin)
    if path.suffix == ".py" or "/" in plugin or (path / "__init__.py").is_file():
        if not path.exists():
            raise PluginError(f"no plugin at {path}: no such file")
        path = path.resolve()
        return PluginCandidate(path.stem, str(path), "", partial(_import_file, path), path)
    known = {candidate.name: candidate for candidate in installed_candidates()}
    if plugin not in known:
        raise PluginError(
            f"{plugin} is not an installed plugin; {suggest(plugin, known)}. Name the path of one"
            " that is not installed, such as plugins/name.py, or its folder with --plugins-dir"
        )
    return known[plugin]


def plugins_in_folder(folder: Path) -> Iterator[PluginCandidate]:
    """The plugins of a plugins directory: each `.py` file, and each folder with `__init__.py`.

    Names that start with `.` or `_` are ignored: a mounted ConfigMap has some.
    """
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise ConfigError(
            f"plugins_dir {folder} cannot be read: {error.strerror}. Check the path, which"
            " --plugins-dir or the setting plugins_dir names."
        ) from None
    for path in paths:
        if path.name.startswith((".", "_")):
            continue
        if path.suffix == ".py" and path.is_file():
            yield PluginCandidate(path.stem, str(path), "", partial(_import_file, path), path)
        elif (path / "__init__.py").is_file():
            yield PluginCandidate(path.name, str(path), "", partial(_import_file, path), path)


def _import_file(path: Path) -> ModuleType:
    name = f"{FOLDER_PACKAGE}.{path.stem}"
    for known in [each for each in sys.modules if each == name or each.startswith(f"{name}.")]:
        del sys.modules[known]
    package = path.is_dir()
    spec = importlib.util.spec_from_file_location(
        name,
        path / "__init__.py" if package else path,
        submodule_search_locations=[str(path)] if package else None,
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    importlib.invalidate_caches()
    try:
        # After two saves within a second, the import system would find stale compiled code.
        source = Path(spec.origin or path).read_bytes()
        exec(compile(source, spec.origin or str(path), "exec"), module.__dict__)  # noqa: S102  # nosec B102 # nosemgrep: unsafe-reading # a plugin is code that the operator installed
    except BaseException:
        del sys.modules[name]
        raise
    return module


def module_location(error: BaseException, module: ModuleType) -> str:
    """The file and line of an imported plugin where an error was raised, in parentheses."""
    file = Path(getattr(module, "__file__", None) or "")
    own = file.parent if file.name == "__init__.py" else file
    steps = [
        step
        for step in traceback.extract_tb(error.__traceback__)
        if Path(step.filename).is_relative_to(own)
    ]
    return f" ({Path(steps[-1].filename).name}, line {steps[-1].lineno})" if steps else ""


def error_location(error: BaseException, candidate: PluginCandidate) -> str:
    """The file and line of the plugin where an error was raised, in parentheses; may be empty."""
    where = candidate.path.parent if candidate.path is not None else None
    steps = [
        step
        for step in traceback.extract_tb(error.__traceback__)
        if "importlib" not in step.filename and not step.filename.startswith("<frozen")
        and (where is None or Path(step.filename).is_relative_to(where))
        and step.filename != __file__
    ]  # fmt: skip
    return f" ({Path(steps[-1].filename).name}, line {steps[-1].lineno})" if steps else ""
