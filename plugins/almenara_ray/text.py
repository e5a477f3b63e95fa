"""Text of logs and messages: what a terminal would show of it, and the error that it reports."""

import re
from typing import Final

ESCAPES: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
LINE_LIMIT: Final = 4_000
"""Characters of a line."""
WORKER: Final = re.compile(r"\([^()]{0,200}\bpid=\d+[^()]{0,200}\)\s?")
"""How Ray starts a line that a worker wrote: `(train pid=812, ip=10.0.0.7) `."""
ERROR: Final = re.compile(
    r"(?:\w+\.)*\w*(?:Error|Exception|Interrupt|Exit)(?:\([\w.]+\))?(?::\s|:?$)"
)
"""How Python starts the line of an error: `torch.cuda.OutOfMemoryError: CUDA out of memory`."""
GROUP_MARKS: Final = " \t|+-"
"""What Python puts before the lines of an exception group."""


def clean_text(text: str, line_limit: int = LINE_LIMIT) -> str:
    """Return the text without colours, and each line as a terminal would show it."""
    text = ESCAPES.sub("", text)
    # A progress bar overwrites itself with carriage returns; what it wrote last counts.
    lines = (line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    return "\n".join(line[:line_limit] for line in lines).strip("\n")


def find_error(text: str) -> str:
    """Return the last line of a cleaned text that reports an error; empty where none does.

    The last one counts, since the causes of an error come before it. A line that a worker wrote
    counts less than one of the driver, which decides how the job ends.
    """
    fallback = ""
    for line in reversed(text.splitlines()):
        stripped = line.strip(GROUP_MARKS)
        if ERROR.match(stripped):
            return stripped
        worker = WORKER.match(stripped)
        if worker is not None and not fallback and ERROR.match(stripped[worker.end() :]):
            fallback = stripped[worker.end() :]
    return fallback


def find_last_line(text: str) -> str:
    """Return the last line of a cleaned text, of the driver where it wrote any."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    own = [line for line in lines if not WORKER.match(line)]
    return (own or lines or [""])[-1]


def find_first_line(text: str) -> str:
    """Return the first line of a cleaned text that is not empty."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def keep_end(text: str, limit: int) -> str:
    """Return the end of a text, which has the cause of an error, with `…` where it was cut."""
    return text if len(text) <= limit else f"…{text[1 - limit :]}"
