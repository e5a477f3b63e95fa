"""No command shows the value of a secret setting, whatever is wrong with it or beside it.

The matrix is generated: every secret of the core and of all plugins, every kind of failure, every
command that reads the configuration.
"""

import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import click
import msgspec
import pytest
import yaml
from click.testing import CliRunner

from almenara.cli.main import build_cli
from almenara.plugins import load_plugins
from support.secret_settings import Place, secret_places, url_places

MARK = "s3cr3tQ7f3a"
"""In every secret value, in one piece, so that a part of it is recognized too."""
PLACEHOLDER = "placeholder-for-raw-yaml"
TYPES = load_plugins().settings_types()
SECRETS, URLS = secret_places(TYPES), url_places(TYPES)


class Failure(msgspec.Struct):
    """A failure: the secret as the configuration has it, and what surrounds it."""

    value: Any
    siblings: dict[str, Any] = {}
    environment: dict[str, bytes] = {}
    raw: str = ""
    """YAML in place of the value."""


def failures(place: Place, folder: Path) -> Iterator[tuple[str, Failure]]:
    """Yield every kind of failure of a secret, with files in `folder`."""

    def file(name: str, content: bytes) -> dict[str, str]:
        (folder / name).write_bytes(content)
        return {"file": str(folder / name)}

    secret = MARK.encode()
    other = next(
        field.encode_name
        for field in msgspec.structs.fields(place.struct)
        if field.encode_name not in place.steps
    )
    yield "wrong type beside it", Failure(MARK, {other: {"a": {"b": [1]}}})
    yield "wrong setting beside it", Failure(MARK, {"no_such_setting": 1})
    if number := numeric_field(place.struct):
        yield "on the line of its sibling", Failure(MARK, {number: f"{MARK} {MARK}"})
    yield "misspelled name", Failure({"env": "NO_SUCH_VARIABLE"}, {f"{other}x": MARK})
    yield "list", Failure([MARK])
    yield "other source", Failure({"vault": MARK})
    yield "two sources", Failure({"env": MARK, "file": MARK})
    yield "nested", Failure({"env": {MARK: MARK}})
    yield "value as variable", Failure({"env": MARK})
    yield "value as file", Failure({"file": MARK})
    yield "value as long file", Failure({"file": MARK * 100})
    yield "value as file with NUL", Failure({"file": f"{MARK}\0"})
    yield "missing file", Failure({"file": "/no/such/file"}, {other: MARK})
    yield "directory", Failure({"file": str(folder)}, {other: MARK})
    yield "file that is not text", Failure(file("bytes", secret + b"\xff" + secret))
    yield "file with two lines", Failure(file("lines", secret + b"\n" + secret))
    yield "file with a NUL", Failure(file("nul", secret + b"\0" + secret))
    yield "empty file", Failure(file("empty", b" \n"), {other: MARK})
    yield "control character", Failure(f"{MARK}\x07{MARK}")
    yield "line break", Failure(f"{MARK}\n{MARK}")
    variable = {"env": "THE_SECRET"}
    yield "variable with two lines", Failure(variable, {}, {"THE_SECRET": secret + b"\n" + secret})
    yield "variable that is not text", Failure(variable, {}, {"THE_SECRET": secret + b"\xe9"})
    for name, raw in (
        ("tag", f"!{MARK}"), ("alias", f"*{MARK}"), ("quote", f"'{MARK}"), ("brace", f"{{{MARK}"),
        ("colon", f"{MARK}: {MARK}: x"), ("tag handle", f"!{MARK}!{MARK}"), ("at", f"@{MARK}"),
        ("escape", f'"{MARK}\\q{MARK}"'), ("bell", f"{MARK}\x07"), ("tab", f"\t{MARK}\n\t- a"),
    ):  # fmt: skip
        yield f"broken YAML: {name}", Failure(PLACEHOLDER, raw=raw)
    if not any(isinstance(step, int) for step in place.steps):
        name = "ALMENARA_" + "__".join(str(step) for step in place.steps).upper()
        above = "__".join(name.split("__")[:-1])
        yield "broken YAML in a variable", Failure(MARK, {}, {name: b"[" + secret})
        yield "tag in a variable", Failure(MARK, {}, {name: b"!" + secret})
        if above:
            yield "section that is the secret", Failure(variable, {}, {above: secret})
            yield "part of the secret", Failure(MARK, {}, {f"{name}__X": secret})


def numeric_field(struct: type[msgspec.Struct]) -> str:
    """Return a field that takes a number only; empty if the struct has no such field."""
    numbers = (int, float, bool)
    for field in msgspec.structs.fields(struct):
        if {field.type, *get_args(field.type)[:1]} & {*numbers}:
            return field.encode_name
    return ""


def reachable(folder: Path) -> Iterator[tuple[str, Failure]]:
    """Yield secrets that are accepted, and that systems or libraries refuse later."""
    yield "unreachable system", Failure(f"{MARK}-and-more-to-be-long-enough")
    yield "not ASCII", Failure(f"{MARK}-Schlüssel-€-and-more-of-it")
    yield "like a URL", Failure(f"http://{MARK}:{MARK}@127.0.0.1:9/?a={MARK}")
    yield "like markup", Failure(f"[red]{MARK}[/] %s {{}} <b>{MARK}</b>")
    (folder / "word").write_text(f"{MARK}-and-more-to-be-long-enough\n")
    yield "from a file", Failure({"file": str(folder / "word")})


@pytest.fixture(scope="module")
def cli() -> click.Command:
    """The command line with all plugins, which are loaded once."""
    return build_cli(load_plugins())


def write_configuration(folder: Path, tree: dict[str, Any], raw: str = "") -> Path:
    """Write a configuration, with `raw` in place of the placeholder; return its file."""
    folder.mkdir(exist_ok=True)
    tree.setdefault("storage", {})["dir"] = str(folder / "data")
    file = folder / "almenara.yaml"
    file.write_text(yaml.safe_dump(tree).replace(PLACEHOLDER, raw), "utf-8")
    return file


def run(cli: click.Command, file: Path, failure: Failure, *command: str) -> tuple[int, str]:
    """Return the exit status and everything that a command prints and logs."""
    environment = {
        # Bytes that are not UTF-8 become lone surrogates, as in a real environment.
        name: value.decode("utf-8", "surrogateescape")
        for name, value in failure.environment.items()
    }
    arguments = ["--config", str(file), *command]
    result = CliRunner().invoke(cli, arguments, env={"COLUMNS": "300", **environment})
    output = result.output
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        output += "".join(traceback.format_exception(result.exception))
    return result.exit_code, output


def judge(status: int, output: str, *, refused: bool) -> str:
    """Return what is wrong with an output; empty where nothing is."""
    if MARK in "".join(output.split()):
        return f"the secret is shown: {output}"
    if "Traceback" in output or (refused and status != 1):
        return f"status {status}: {output[-2000:]}"
    return ""


def test_secret_places_are_all_known() -> None:
    """A walk that returned nothing would prove nothing."""
    assert {place.path for place in SECRETS} >= {
        "auth.token", "auth.oidc.client_secret", "auth.proxy.secret", "auth.kubernetes.token",
        "plugins.http.checks[0].password", "plugins.http.checks[0].headers.a",
        "plugins.nats.password", "plugins.nats.token", "plugins.prometheus.targets[0].bearer",
        "plugins.ray.clusters[0].token",
    }  # fmt: skip
    assert {place.path for place in URLS} >= {
        "auth.oidc.issuer", "auth.kubernetes.server", "plugins.http.checks[0].url",
        "plugins.nats.servers[0]", "plugins.prometheus.targets[0].url",
        "plugins.ray.clusters[0].url",
    }  # fmt: skip


def test_no_command_shows_a_secret_of_a_wrong_configuration(
    tmp_path: Path, cli: click.Command, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds: set[str] = set()
    outputs, wrong = 0, []
    for number, place in enumerate(SECRETS):
        files = tmp_path / str(number)
        files.mkdir()
        for index, (kind, failure) in enumerate(failures(place, files)):
            kinds.add(kind)
            tree = place.tree(failure.value, **failure.siblings)
            file = write_configuration(files / f"case-{index}", tree, failure.raw)
            # The three commands read the configuration alike; each failure meets two of them.
            others = (["doctor"], ["serve", "--port", "0"])
            for command in (["config", "check"], others[(number + index) % 2]):
                status, output = run(cli, file, failure, *command)
                outputs += 1
                if problem := judge(status, output, refused=True):
                    wrong.append(f"{place.path}, {kind}, {command[0]}: {problem}")
                    break
    with capsys.disabled():
        print(
            f"\nsecrets: {len(SECRETS)} settings x {len(kinds)} failures, {outputs} outputs,"
            f" {len(wrong)} wrong"
        )
    assert wrong == []


def test_no_command_shows_a_secret_of_an_unreachable_system(
    tmp_path: Path, cli: click.Command, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [
        (place, kind, failure) for place in SECRETS for kind, failure in reachable(tmp_path)
    ] + [
        (place, kind, Failure(url))
        for place in URLS
        for kind, url in (
            ("user", f"http://user:{MARK}@127.0.0.1:9/"),
            ("query", f"http://127.0.0.1:9/?key={MARK}"),
            ("fragment", f"http://127.0.0.1:9/#{MARK}"),
            ("not a URL", f"http://user:{MARK}@[::1/?a={MARK}"),
        )
    ]
    wrong = []
    for index, (place, kind, failure) in enumerate(cases):
        file = write_configuration(tmp_path / f"case-{index}", place.tree(failure.value))
        for command in ("config", "check"), ("doctor",):
            status, output = run(cli, file, failure, *command)
            if problem := judge(status, output, refused=False):
                wrong.append(f"{place.path}, {kind}, {command[0]}: {problem}")
    with capsys.disabled():
        print(f"\nunreachable systems: {2 * len(cases)} outputs, {len(wrong)} wrong")
    assert wrong == []
