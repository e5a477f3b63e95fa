"""Bundled plugins without any configuration cost neither memory nor time to start."""

import subprocess
import sys

LOAD = """
import sys
from pathlib import Path
from almenara.plugins import load_plugins
from almenara.testing.source_run import MemoryContext

plugins = load_plugins()
assert not [info for info in plugins.infos() if info.error]
context = MemoryContext(Path("."))
for name in set(plugins.modules) - {"nats"}:
    settings = plugins.decode_settings(name, {})
    plugins.hooks.sources(name, settings, context)
    plugins.hooks.panels(name, settings)
    plugins.hooks.pages(name, settings)
    plugins.hooks.log_streams(name, settings, context)
    plugins.hooks.requirements(name, settings)
    plugins.hooks.notifiers(name, settings)
plugins.commands(lambda: None)
print(" ".join(sorted(sys.modules)))
"""


def test_unconfigured_plugins_load_no_client_libraries() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOAD], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(done.stdout.split())
    assert {"almenara_http", "almenara_kubernetes", "almenara_ray", "almenara_demo"} <= loaded
    assert not loaded & {
        "httpx",
        "httpcore",
        "aiosmtplib",
        "aiohttp.web",
        "nacl",
        "nats",
        "almenara_kube.client",
    }
