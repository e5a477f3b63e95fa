"""A plugin whose alerts are what a file says, for tests of an Almenara in a process of its own."""

import json
from pathlib import Path

PLUGIN = '''
import json
from pathlib import Path

import almenara, msgspec
from almenara.sdk import every
from almenara.signals import Resource, Severity


class ScriptSettings(msgspec.Struct, forbid_unknown_fields=True):
    file: Path
    """File with the status of each alert."""


class Script:
    name = "scripted"

    def __init__(self, settings):
        self.file = settings.file

    async def run(self, publish):
        published = {}
        async for _ in every(0.05, jitter=0):
            written = json.loads(self.file.read_text())
            changed = [name for name in written if published.get(name) != written[name]]
            await publish([self.alert(name, written[name]) for name in changed])
            published = written

    def alert(self, name, status):
        return Resource(
            kind="almenara.alert", namespace="scripted", name=name, status=status,
            severity=Severity.ERROR if status == "firing" else Severity.INFO,
            state={"severity": "ERROR", "labels": {"alert": name},
                   "annotations": {"summary": f"{name} <!channel> is broken"}},
        )


@almenara.hookimpl
def almenara_settings(): return ScriptSettings

@almenara.hookimpl
def almenara_sources(settings): return [Script(settings)]
'''


class AlertScript:
    """The file, and the folder with the plugin that follows it."""

    def __init__(self, folder: Path) -> None:
        self.plugins_dir = folder / "plugins"
        self.plugins_dir.mkdir()
        (self.plugins_dir / "scripted.py").write_text(PLUGIN, "utf-8")
        self.file = folder / "alerts.json"
        self._statuses: dict[str, str] = {}
        self.set()

    def set(self, **statuses: str) -> None:
        """Set the status of alerts."""
        self._statuses |= statuses
        other = self.file.with_suffix(".new")
        other.write_text(json.dumps(self._statuses), "utf-8")
        # Replaced at once, so that a reader never sees a part of it.
        other.replace(self.file)

    @property
    def config(self) -> dict[str, object]:
        """What the configuration needs besides `alerting`."""
        return {
            "plugins_dir": str(self.plugins_dir),
            "plugins": {"scripted": {"file": str(self.file)}, "disabled": ["nats"]},
        }
