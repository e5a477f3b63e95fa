"""Every kind of wrong configuration is refused with its path and a remedy."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.command_line import output_of, run_almenara

PLUGIN = '''
import msgspec, almenara
from almenara.hookspecs import *
from almenara.config import Secret

class Part(msgspec.Struct, forbid_unknown_fields=True):
    size: int
    """Size."""

class Settings(msgspec.Struct, forbid_unknown_fields=True):
    every: float = 1.0
    """Seconds."""
    key: Secret | None = None
    """A key."""
    parts: list[Part] = []
    """Parts."""

@almenara.hookimpl
def almenara_settings(): return Settings

@almenara.hookimpl
def almenara_panels():
    return [
        EventsPanel(name="p", title="P", query=EventQuery(), filters=["severity"]),
        TablePanel(name="all", title="All", query=ResourceQuery(kind="mine.thing"),
              columns=[Column(title="Name", path="name")], link="one"),
    ]

@almenara.hookimpl
def almenara_pages():
    return [Page(name="one", title="One", panels=["p"])]
'''

WRONG_SETTINGS = [
    ("server: {prot: 80}", "server.prot is not a setting; did you mean port?"),
    ("server: {port: eighty}", "server.port: expected a whole number, found 'eighty'"),
    ("server: {port: 99999}", "server.port: expected a whole number of at most 65535, found 99999"),
    ("serve: {}", "serve is not a setting; did you mean server?"),
    ("- a\n- b", "contains a list, expected `name: value` lines"),
    ("a: [", "is not YAML"),
    ("plugins: {mien: {}}", "plugins.mien is not a plugin that is installed; did you mean mine?"),
    ("plugins: {disabled: [mien]}",
     "plugins.disabled: mien is not a plugin that is installed; did you mean mine?"),
    ("plugins: {disabled: mine}", "plugins.disabled must be a list of plugin names"),
    ("plugins: {mine: 7}", "plugins.mine must contain `name: value` lines, found a whole number"),
    ("plugins: {mine: {evry: 3}}", "plugins.mine.evry is not a setting; did you mean every?"),
    ("plugins: {mine: {every: often}}",
     "plugins.mine.every: expected a number, found 'often'"),
    ("plugins: {mine: {parts: [{size: 1}, {size: big}]}}",
     "plugins.mine.parts[1].size: expected a whole number, found 'big'"),
    ("plugins: {mine: {parts: [{sise: 1}]}}",
     "plugins.mine.parts[0].sise is not a setting; did you mean size?"),
    ("plugins: {mine: {key: {env: NO_SUCH_VARIABLE}}}",
     "plugins.mine.key: the environment variable NO_SUCH_VARIABLE is not set"),
    ("plugins: {mine: {key: {file: /no/such/file}}}",
     "plugins.mine.key: the file /no/such/file cannot be read: No such file or directory"),
    ("plugins: {mine: {key: {vault: s3cr3t-word}}}",
     "plugins.mine.key: a secret is `{env: NAME}`, `{file: PATH}` or a text"),
    ("plugins: {demo: {x: 1}}", "plugins.demo: the plugin has no settings"),
    ("supervisor: {sources: {mine: {isolation: container}}}",
     "supervisor.sources.mine.isolation: expected one of thread, "),
    ("supervisor: {sources: {mine: {rate: 1}}}",
     "supervisor.sources.mine.rate is not a setting; did you mean rate_limit?"),
    ("dashboards: [{name: a, panels: [mine.q]}]",
     "dashboards[0].panels[0]: there is no panel 'mine.q'; did you mean mine.p?"),
    ("dashboards: [{name: a, panels: [mine.p, mine.p]}]",
     "dashboards[0].panels[1]: mine.p is already on this page"),
    ("dashboards: [{name: a, panels: []}, {name: a, panels: []}]",
     "dashboards[1].name: there are two dashboards named a"),
    ("dashboards: [{name: a, panels: [{panel: mine.p, width: 13}]}]",
     "expected a whole number of at most 12"),
    ("dashboards: [{name: a, panels: [{panel: mine.p, filter: {type: x}}]}]",
     "dashboards[0].panels[0].filter.type: mine.p has no such filter; its filters: severity"),
    ("dashboards: [{name: a, panels: [{panel: mine.p, filter: {severity: LOUD}}]}]",
     "dashboards[0].panels[0].filter: 'LOUD' is not a severity"),
    ("dashboards: [{name: A b, panels: []}]", "dashboards[0].name: expected a text that matches"),
    ("plugins_dir: /no/such/folder", "plugins_dir /no/such/folder cannot be read"),
]  # fmt: skip

WRONG_AT_START = [
    ("server: {host: 0.0.0.0}\nauth: {mode: none}", "auth.mode: server.host is 0.0.0.0, which"),
    ("auth: {mode: oidc}", "auth.oidc: the mode `oidc` needs `issuer` and `client_id` here"),
    ("auth: {mode: token, token: s3cr3t-word}", "auth.token: it is shorter than 20 characters"),
    ("server: {trusted_proxies: [proxy.local]}",
     "server.trusted_proxies: 'proxy.local' is not an address or a network"),
    ("server: {tls: {cert: /no/cert.pem, key: /no/key.pem}}",
     "server.tls.cert: cannot read /no/cert.pem: No such file or directory"),
    ("server: {tls: {cert: almenara.yaml, key: almenara.yaml}}",
     "server.tls.cert: almenara.yaml contains no certificate in PEM"),
    ("auth: {mode: oidc, roles: [{role: viewer, groups: ['*']}],"
     " oidc: {issuer: 'https://a.example.org', client_id: a, ca: /no/ca.pem}}",
     "auth.oidc.ca: cannot use /no/ca.pem (No such file or directory)"),
    ("auth: {mode: kubernetes, authorization: kubernetes, kubernetes: {server: 'https://a',"
     " client_cert: almenara.yaml}}",
     "auth.kubernetes.client_cert: cannot use almenara.yaml"),
]  # fmt: skip
"""Settings of the right type that refer to something missing or unusable."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with a directory of plugins."""
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "mine.py").write_text(PLUGIN)
    return tmp_path


@pytest.mark.parametrize(("text", "message"), WRONG_SETTINGS)
def test_config_check_reports_wrong_setting(folder: Path, text: str, message: str) -> None:
    if "plugins_dir" not in text and not text.startswith(("-", "a")):
        text = f"plugins_dir: plugins\n{text}"
    (folder / "almenara.yaml").write_text(text)
    process = run_almenara(folder, "config", "check", "almenara.yaml")
    assert process.returncode == 1, process.stdout
    assert message in " ".join(process.stderr.replace("│", " ").split())
    assert "Traceback" not in process.stderr
    assert "s3cr3t-word" not in process.stderr


@pytest.mark.parametrize(("text", "message"), WRONG_AT_START)
def test_check_doctor_and_serve_report_what_prevents_start(
    folder: Path, text: str, message: str
) -> None:
    (folder / "almenara.yaml").write_text(f"storage: {{dir: data}}\n{text}")
    commands = (
        ("config", "check", "almenara.yaml"),
        ("doctor", "--config", "almenara.yaml"),
        ("serve", "--config", "almenara.yaml", "--port", "0"),
    )
    with ThreadPoolExecutor(len(commands)) as pool:
        for process in pool.map(lambda arguments: run_almenara(folder, *arguments), commands):
            output = output_of(process)
            assert process.returncode == 1, output
            assert message in output
            assert "Traceback" not in output
            assert "s3cr3t-word" not in output


def test_serve_refuses_unknown_panel_like_config_check(folder: Path) -> None:
    (folder / "almenara.yaml").write_text(
        "plugins_dir: plugins\ndashboards: [{name: a, panels: [mine.q]}]"
    )
    process = run_almenara(folder, "serve", "--config", "almenara.yaml", "--port", "0")
    assert process.returncode == 1
    assert "there is no panel 'mine.q'; did you mean mine.p?" in process.stderr


def test_config_schema_describes_core_and_plugins(folder: Path) -> None:
    process = run_almenara(folder, "--plugins-dir", "plugins", "config", "schema")
    schema = json.loads(process.stdout)
    core = schema["$defs"][schema["$ref"].rpartition("/")[2]]
    plugins = core["properties"]["plugins"]
    assert set(plugins["properties"]) == {
        "agents", "disabled", "demo", "http", "kubernetes", "mine", "nats", "neo4j", "notifiers",
        "prometheus", "ray", "valkey", "vllm",
    }  # fmt: skip
    assert plugins["additionalProperties"] is False
    mine = schema["$defs"][plugins["properties"]["mine"]["$ref"].rpartition("/")[2]]
    assert mine["properties"]["every"]["description"] == "Seconds."
    assert core["properties"]["plugins_dir"]["description"].startswith("Directory of plugins")
    assert "env" in json.dumps(schema["$defs"]["NatsSettings"]["properties"]["password"])


def test_config_check_fails_for_configured_plugin_that_cannot_be_imported(folder: Path) -> None:
    (folder / "plugins" / "broken.py").write_text("import no_such_library\n")
    (folder / "almenara.yaml").write_text("plugins_dir: plugins\nplugins: {broken: {}}")
    process = run_almenara(folder, "config", "check", "almenara.yaml")
    output = output_of(process)
    assert process.returncode == 1
    assert "Plugin broken failed: it cannot be imported" in output
    assert "No module named 'no_such_library'" in output
    assert "broken cannot be used: fix or update each plugin" in output
    assert "Traceback" not in output


def test_config_check_reports_failed_plugin_that_is_not_configured(folder: Path) -> None:
    (folder / "plugins" / "broken.py").write_text("import no_such_library\n")
    (folder / "almenara.yaml").write_text("plugins_dir: plugins\n")
    process = run_almenara(folder, "config", "check", "almenara.yaml")
    assert process.returncode == 0
    assert "Plugin broken failed: it cannot be imported" in process.stderr
    assert "The configuration is valid." in process.stdout


def test_only_serve_logs_a_plugin_that_fails(folder: Path) -> None:
    (folder / "plugins" / "broken.py").write_text("import no_such_library\n")
    (folder / "almenara.yaml").write_text("plugins_dir: plugins\nstorage: {dir: almenara.yaml}")
    for command in ("--version",), ("plugins", "list"), ("access", "list", "--help"):
        process = run_almenara(folder, "--config", "almenara.yaml", *command)
        assert process.returncode == 0, process.stderr
        assert process.stderr == ""
    process = run_almenara(folder, "--config", "almenara.yaml", "serve", "--port", "0")
    (line,) = [line for line in process.stderr.splitlines() if "a plugin failed" in line]
    assert json.loads(line)["plugin"] == "broken"
    assert "no_such_library" in json.loads(line)["error"]


@pytest.fixture
def without_extras(tmp_path: Path) -> dict[str, str]:
    """The environment of a process in which the libraries of the extra `nats` are missing."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WITHOUT_NATS)
    return {
        "PYTHONPATH": os.pathsep.join((str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")))
    }


WITHOUT_NATS = """
import importlib.metadata, sys

find = importlib.metadata.version

def version(name):
    if name in ("nats-py", "nats_py"):
        raise importlib.metadata.PackageNotFoundError(name)
    return find(name)

importlib.metadata.version = version
sys.modules["nats"] = None
"""


def test_commands_work_without_an_extra_and_name_it(
    folder: Path, without_extras: dict[str, str]
) -> None:
    for command in (("--version",), ("plugins", "list"), ("config", "check"), ("config", "schema")):
        process = run_almenara(folder, *command, environment=without_extras)
        assert process.returncode == 0, process.stderr
        assert process.stderr == ""
        if command == ("plugins", "list"):
            assert "pip install 'almenara[nats]'" in output_of(process)
    (folder / "almenara.yaml").write_text("plugins: {nats: {servers: ['nats://a']}}")
    process = run_almenara(folder, "config", "check", "almenara.yaml", environment=without_extras)
    assert process.returncode == 1
    assert "plugins.nats needs libraries that are not installed: pip install 'almenara[nats]'" in (
        output_of(process)
    )
    assert "ModuleNotFoundError" not in output_of(process)
