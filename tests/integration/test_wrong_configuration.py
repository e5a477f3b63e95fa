"""Every kind of wrong configuration is refused with words that tell a stranger what to do."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

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

WRONG = [
    ("server: {prot: 80}", "server.prot is not a setting; did you mean port?"),
    ("server: {port: eighty}", "server.port: Expected `int`, got `str`, found 'eighty'"),
    ("server: {port: 99999}", "server.port: Expected `int` <= 65535, found 99999"),
    ("serving: {}", "serving is not a setting; did you mean server?"),
    ("- a\n- b", "contains list, expected `name: value` lines"),
    ("a: [", "is not YAML"),
    ("plugins: {mien: {}}", "plugins.mien is not a plugin that is installed; did you mean mine?"),
    ("plugins: {disabled: [mien]}",
     "plugins.disabled: mien is not a plugin that is installed; did you mean mine?"),
    ("plugins: {disabled: mine}", "plugins.disabled must be a list of plugin names"),
    ("plugins: {mine: 7}", "plugins.mine must contain `name: value` lines, found int"),
    ("plugins: {mine: {evry: 3}}", "plugins.mine.evry is not a setting; did you mean every?"),
    ("plugins: {mine: {every: often}}",
     "plugins.mine.every: Expected `float`, got `str`, found 'often'"),
    ("plugins: {mine: {parts: [{size: 1}, {size: big}]}}",
     "plugins.mine.parts[1].size: Expected `int`, got `str`, found 'big'"),
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
     "supervisor.sources.mine.isolation: Invalid enum value 'container', expected one of thread,"),
    ("supervisor: {sources: {mine: {rate: 1}}}",
     "supervisor.sources.mine.rate is not a setting; did you mean rate_limit?"),
    ("dashboards: [{name: a, panels: [mine.q]}]",
     "dashboards[0].panels[0]: there is no panel 'mine.q'; did you mean mine.p?"),
    ("dashboards: [{name: a, panels: [mine.p, mine.p]}]",
     "dashboards[0].panels[1]: mine.p is on this page already"),
    ("dashboards: [{name: a, panels: []}, {name: a, panels: []}]",
     "dashboards[1].name: there are two dashboards named a"),
    ("dashboards: [{name: a, panels: [{panel: mine.p, width: 13}]}]",
     "Expected `int` <= 12"),
    ("dashboards: [{name: a, panels: [{panel: mine.p, filter: {type: x}}]}]",
     "dashboards[0].panels[0].filter.type: mine.p has no such filter; it accepts severity"),
    ("dashboards: [{name: a, panels: [{panel: mine.p, filter: {severity: LOUD}}]}]",
     "dashboards[0].panels[0].filter: 'LOUD' is not a severity"),
    ("dashboards: [{name: A b, panels: []}]", "dashboards[0].name: Expected `str` matching regex"),
    ("plugins_dir: /no/such/folder", "plugins_dir /no/such/folder cannot be read"),
]  # fmt: skip

AT_START = [
    ("server: {host: 0.0.0.0}\nauth: {mode: none}", "auth.mode: server.host is 0.0.0.0, which"),
    ("auth: {mode: oidc}", "auth.oidc: the mode `oidc` needs `issuer` and `client_id` here"),
    ("auth: {mode: token, token: s3cr3t-word}", "auth.token: it is shorter than 20 characters"),
    ("server: {trusted_proxies: [proxy.local]}",
     "server.trusted_proxies: 'proxy.local' is no address and no network"),
    ("server: {tls: {cert: /no/cert.pem, key: /no/key.pem}}",
     "server.tls.cert: /no/cert.pem cannot be read: No such file or directory"),
    ("server: {tls: {cert: almenara.yaml, key: almenara.yaml}}",
     "server.tls.cert: almenara.yaml holds no certificate in PEM"),
    ("auth: {mode: oidc, roles: [{role: viewer, groups: ['*']}],"
     " oidc: {issuer: 'https://a.example.org', client_id: a, ca: /no/ca.pem}}",
     "auth.oidc.ca: /no/ca.pem cannot be used (No such file or directory)"),
    ("auth: {mode: kubernetes, authorization: kubernetes, kubernetes: {server: 'https://a',"
     " client_cert: almenara.yaml}}",
     "auth.kubernetes.client_cert: almenara.yaml cannot be used"),
]  # fmt: skip
"""What the settings allow, and only a look at what they name tells."""


def almenara(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    plugins = tmp_path / "plugins"
    plugins.mkdir(exist_ok=True)
    (plugins / "mine.py").write_text(PLUGIN)
    environment = {k: v for k, v in os.environ.items() if "ALMENARA" not in k}
    return subprocess.run(
        [sys.executable, "-m", "almenara", *arguments],
        capture_output=True, text=True, timeout=60, cwd=tmp_path,
        env={**environment, "COLUMNS": "400"},
    )  # fmt: skip


@pytest.mark.parametrize(("text", "told"), WRONG)
def test_a_wrong_configuration_is_refused_with_what_to_do(
    tmp_path: Path, text: str, told: str
) -> None:
    if "plugins_dir" not in text and not text.startswith(("-", "a")):
        text = f"plugins_dir: plugins\n{text}"
    (tmp_path / "almenara.yaml").write_text(text)
    done = almenara(tmp_path, "config", "check", "almenara.yaml")
    said = " ".join(done.stderr.replace("│", " ").split())
    assert done.returncode == 1, done.stdout
    assert told in said
    assert "Traceback" not in said
    assert "s3cr3t-word" not in said


@pytest.mark.parametrize(("text", "told"), AT_START)
def test_what_would_keep_almenara_from_starting_is_told_before_and_by_doctor(
    tmp_path: Path, text: str, told: str
) -> None:
    (tmp_path / "almenara.yaml").write_text(f"storage: {{dir: data}}\n{text}")
    ways = (
        ("config", "check", "almenara.yaml"),
        ("doctor", "--config", "almenara.yaml"),
        ("serve", "--config", "almenara.yaml", "--port", "0"),
    )
    with ThreadPoolExecutor(len(ways)) as pool:
        for done in pool.map(lambda it: almenara(tmp_path, *it), ways):
            said = " ".join((done.stdout + done.stderr).replace("│", " ").split())
            assert done.returncode == 1, said
            assert told in said
            assert "Traceback" not in said
            assert "s3cr3t-word" not in said


def test_a_wrong_configuration_keeps_almenara_from_starting_with_the_same_words(
    tmp_path: Path,
) -> None:
    (tmp_path / "almenara.yaml").write_text(
        "plugins_dir: plugins\ndashboards: [{name: a, panels: [mine.q]}]"
    )
    done = almenara(tmp_path, "serve", "--config", "almenara.yaml", "--port", "0")
    assert done.returncode == 1
    assert "there is no panel 'mine.q'; did you mean mine.p?" in done.stderr


def test_one_schema_describes_the_core_and_every_plugin(tmp_path: Path) -> None:
    done = almenara(tmp_path, "--plugins-dir", "plugins", "config", "schema")
    schema = json.loads(done.stdout)
    core = schema["$defs"][schema["$ref"].rpartition("/")[2]]
    plugins = core["properties"]["plugins"]
    assert set(plugins["properties"]) == {
        "disabled", "demo", "http", "kubernetes", "mine", "nats", "prometheus", "ray",
    }  # fmt: skip
    assert plugins["additionalProperties"] is False
    mine = schema["$defs"][plugins["properties"]["mine"]["$ref"].rpartition("/")[2]]
    assert mine["properties"]["every"]["description"] == "Seconds."
    assert core["properties"]["plugins_dir"]["description"].startswith("Directory of plugins")
    assert "env" in json.dumps(schema["$defs"]["NatsSettings"]["properties"]["password"])
