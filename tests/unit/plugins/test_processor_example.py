"""The processor of the documentation works as the page describes."""

import re
import types

from almenara.signals import Event
from almenara.testing import ProcessorRun, check_processor
from support.paths import ROOT

PAGE = (ROOT / "docs" / "plugins" / "processors.md").read_text("utf-8")


def test_processor_of_the_documentation_is_a_function_of_the_log() -> None:
    example, test, *_ = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    module = types.ModuleType("error_rate")
    exec(compile(example, "processors.md", "exec"), module.__dict__)
    (processor,) = module.almenara_processors({}, None)
    assert type(processor) is module.ErrorRate
    errors = [
        Event(
            id=str(number), source="app", type="app.error", subject="a",
            time=1_767_225_600_000_000 + number,
        )
        for number in range(5)
    ]  # fmt: skip
    module.__dict__.update(
        errors=errors, ProcessorRun=ProcessorRun, check_processor=check_processor
    )
    exec(compile(test, "processors.md", "exec"), module.__dict__)
