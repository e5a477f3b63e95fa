"""A new plugin installs from its wheel, passes its own tests and shows up, without an edit."""

import json
import os
import subprocess
import sys
import urllib.request
import venv
import zipfile
from pathlib import Path

import pytest

from almenara.scaffold import create
from support.servers import free_port, wait_until


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [str(each) for each in command], cwd=cwd, capture_output=True, text=True, timeout=180,
        env={**{k: v for k, v in os.environ.items() if "ALMENARA" not in k}, **environment},
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """Another environment, which finds the libraries of this one and nothing that is edited."""
    folder = tmp_path / "environment"
    venv.create(folder, with_pip=True)
    here = next(Path(each) for each in sys.path if each.endswith("site-packages"))
    there = next((folder / "lib").glob("python3*/site-packages"))
    (there / "libraries.pth").write_text(f"import site; site.addsitedir({str(here)!r})\n")
    return folder / "bin"


def test_scaffolded_plugin_works_from_its_wheel(tmp_path: Path, environment: Path) -> None:
    folder = tmp_path / "almenara-weather-vane"
    files = create("weather-vane", folder)
    assert folder / "src" / "almenara_weather_vane" / "__init__.py" in files
    assert folder / ".github" / "workflows" / "test.yml" in files
    python = environment / "python"
    run(
        python, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path / "w",
        ".", cwd=folder,
    )  # fmt: skip
    (wheel,) = (tmp_path / "w").glob("*.whl")
    assert "almenara_weather_vane/__init__.py" in zipfile.ZipFile(wheel).namelist()
    run(python, "-m", "pip", "install", "--no-deps", wheel, cwd=tmp_path)

    tests = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", cwd=folder)
    assert "failed" not in tests
    listed = json.loads(run(python, "-m", "almenara", "plugins", "list", "--json", cwd=tmp_path))
    (each,) = [each for each in listed if each["name"] == "weather_vane"]
    assert (each["state"], each["version"], each["origin"]) == (
        "active", "0.1.0", "almenara-weather-vane",
    )  # fmt: skip
    checked = run(python, "-m", "almenara", "plugin", "check", "weather_vane", cwd=tmp_path)
    assert ", 0 failed" in checked

    port = free_port()
    serving = subprocess.Popen(
        [str(python), "-m", "almenara", "serve", "--port", str(port)], cwd=tmp_path,
        env={**os.environ, "ALMENARA_PLUGINS__DISABLED": "[nats]"},
    )  # fmt: skip

    def resources() -> list[dict[str, object]]:
        try:
            address = f"http://127.0.0.1:{port}/api/resources?kind=weather_vane.machine"
            with urllib.request.urlopen(address, timeout=5) as answer:
                return list(json.loads(answer.read()))
        except OSError:
            return []

    try:
        wait_until(lambda: bool(resources()), "the plugin's resource", 30)
        page = f"http://127.0.0.1:{port}/dashboards/weather_vane"
        with urllib.request.urlopen(page, timeout=5) as answer:
            assert "Load per processor" in answer.read().decode()
    finally:
        serving.terminate()
        serving.wait(20)


@pytest.mark.parametrize("name", ["Weather!", "9lives", "class", "nats", "a" * 50, ""])
def test_invalid_plugin_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"not a valid plugin name|plugin nats exists already"):
        create(name, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_existing_files_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(FileExistsError, match="is not empty"):
        create("weather", tmp_path)
    assert (tmp_path / "mine").read_text() == "precious"


def test_scaffolded_notifier_passes_its_tests(tmp_path: Path) -> None:
    folder = tmp_path / "almenara-gong"
    create("gong", folder, is_notifier=True)
    # Known as an installed plugin, without an environment of its own.
    metadata = folder / "src" / "almenara_gong-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: almenara-gong\nVersion: 0.1.0\n"
    )
    (metadata / "entry_points.txt").write_text("[almenara]\ngong = almenara_gong\n")
    path = os.pathsep.join(filter(None, [str(folder / "src"), os.environ.get("PYTHONPATH")]))
    tests = run(
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", cwd=folder,
        PYTHONPATH=path,
    )  # fmt: skip
    assert "failed" not in tests
    assert " passed" in tests.splitlines()[-1]
