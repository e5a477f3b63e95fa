"""A plugin file that publishes numbered samples; a restart continues where the last commit was."""

from pathlib import Path

START = 1_790_000_000_000
PLUGIN = f"""
import asyncio
import almenara, msgspec
from almenara.signals import Sample

class CounterSettings(msgspec.Struct, forbid_unknown_fields=True):
    total: int = 0

class Counter:
    name = "counter"
    def __init__(self, context, settings):
        self.context, self.total = context, settings.total
    async def run(self, publish):
        number = int(await self.context.load("number") or 0)
        while number < self.total:
            numbers = range(number, min(number + 20, self.total))
            await publish([
                Sample(kind="k", name=f"s{{it % 7}}", metric="test.count", value=it / 3,
                       time=({START} + it) * 1000)
                for it in numbers
            ])
            number = numbers[-1] + 1
            await self.context.save("number", str(number).encode())
            await asyncio.sleep(0.01)
        await asyncio.Event().wait()

@almenara.hookimpl
def almenara_settings():
    return CounterSettings

@almenara.hookimpl
def almenara_sources(settings, context):
    return [Counter(context, settings)]
"""


def write_plugin(folder: Path) -> Path:
    """Write the plugin into a folder of plugins, and return that."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "counter.py").write_text(PLUGIN, "utf-8")
    return folder


def expected_samples(total: int) -> dict[tuple[str, int], float]:
    """The samples by the name of their resource and their milliseconds."""
    return {(f"s{number % 7}", START + number): number / 3 for number in range(total)}
