"""The severity of a message: from its fields, a line of text, or the words of its type."""

import re
from collections.abc import Mapping
from typing import Any, Final

from almenara.signals import Severity, parse_severity

FAILURE_WORDS: Final = re.compile(r"fail|error|fatal|dead[._ -]?letter|exception|crash")
WARNING_WORDS: Final = re.compile(r"reject|time[_-]?d?[_-]?out|warn|retry")
LEVELS: Final = {
    "TRACE": Severity.DEBUG,
    "VERBOSE": Severity.DEBUG,
    "WARNING": Severity.WARN,
    "NOTICE": Severity.INFO,
    "INFORMATION": Severity.INFO,
    "CRITICAL": Severity.FATAL,
    "CRIT": Severity.FATAL,
    "EMERGENCY": Severity.FATAL,
    "EMERG": Severity.FATAL,
    "ALERT": Severity.FATAL,
    "PANIC": Severity.FATAL,
    "ERR": Severity.ERROR,
    "SEVERE": Severity.ERROR,
    "DPANIC": Severity.FATAL,
    "INFORMATIONAL": Severity.INFO,
    "FINE": Severity.DEBUG,
    "FINER": Severity.DEBUG,
    "FINEST": Severity.DEBUG,
}
TEXT_LEVEL_FIELDS: Final = (
    "level", "severityText", "severity_text", "levelname", "@l", "log.level", "Level", "@level",
    "lvl", "loglevel", "LogLevel",
)  # fmt: skip
"""Fields of OpenTelemetry, Python's logging, Serilog, ECS, NLog, hclog, log15 and .NET besides
`severity`."""
LEVEL_FIELDS: Final = frozenset((*TEXT_LEVEL_FIELDS, "log", "severityNumber", "severity_number"))
SYSLOG_LEVELS: Final = (
    Severity.FATAL, Severity.FATAL, Severity.FATAL, Severity.ERROR, Severity.WARN, Severity.INFO,
    Severity.INFO, Severity.DEBUG,
)  # fmt: skip
"""Severity of the levels of syslog (RFC 5424), which GELF uses."""
GELF_FIELD: Final = "short_message"
PINO_LEVELS: Final = {
    10: Severity.DEBUG,
    20: Severity.DEBUG,
    30: Severity.INFO,
    40: Severity.WARN,
    50: Severity.ERROR,
    60: Severity.FATAL,
}
STREAMED_TYPE: Final = "vllm_token"
COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
TEXT_HEAD: Final = 400
"""Characters of a line of text that are searched for a level."""
TEXT_LEVEL: Final = re.compile(
    r"\blevel=\"?(?P<pair>\w+)"
    r"|^(?P<klog>[IWEF])\d{4} "
    r"|\[(?P<bracket>[A-Za-z]+)\]"
    r"|^\W*(?P<prefix>[A-Za-z]+):"
    r"|\b(?P<word>TRACE|DEBUG|INFO|NOTICE|WARN|WARNING|ERROR|ERR|CRITICAL|FATAL|PANIC|ALERT)\b"
)
KLOG: Final = {
    "I": Severity.INFO,
    "W": Severity.WARN,
    "E": Severity.ERROR,
    "F": Severity.FATAL,
}

ADVISORIES: Final = {
    "max_deliver": Severity.ERROR,
    "terminated": Severity.WARN,
    "nak": Severity.WARN,
    "stream_quorum_lost": Severity.ERROR,
    "consumer_quorum_lost": Severity.ERROR,
    "stream_leader_elected": Severity.INFO,
    "consumer_leader_elected": Severity.INFO,
    "domain_leader_elected": Severity.INFO,
    "stream_batch_abandoned": Severity.WARN,
    "api_limit_reached": Severity.WARN,
    "server_out_of_space": Severity.FATAL,
    "server_removed": Severity.WARN,
    "slow_consumer": Severity.WARN,
}
"""Severity of the advisories of JetStream, by the last part of their type."""
ADVISORY_PREFIX: Final = "io.nats."
ADVISORY_TYPE: Final = re.compile(r"io\.nats\.(?:jetstream|server)\.advisory\.v\d+\.(\w+)")


def parse_level(name: str) -> Severity | None:
    """Return the severity of a level's name; None for a word that is not a level."""
    level = LEVELS.get(name.strip().upper())
    if level is not None:
        return level
    try:
        return parse_severity(name)
    except ValueError:
        return None


def read_severity(
    declared: Any,
    fields: Mapping[str, Any],
    kind: str,
    subject: str,
    text: str | None,
    problems: list[str],
) -> Severity:
    """Return the severity that the message declares, else the one that its words suggest."""
    if kind.startswith(ADVISORY_PREFIX) and declared is None:
        advisory = ADVISORY_TYPE.fullmatch(kind)
        if advisory is not None:
            return ADVISORIES.get(advisory[1], Severity.INFO)
    severity = _read_declared(declared, problems) or _read_level_fields(fields)
    if severity is None and text is not None:
        return find_level(text) or Severity.INFO
    return severity or guess_severity(fields, kind, subject)


def _read_declared(declared: Any, problems: list[str]) -> Severity | None:
    if not isinstance(declared, str):
        return None
    severity = parse_level(declared)
    if severity is None:
        try:
            parse_severity(declared)
        except ValueError as error:
            problem = str(error)[:200]
            if problem not in problems:
                problems.append(problem)
    return severity


def _read_level_fields(fields: Mapping[str, Any]) -> Severity | None:
    # This runs for each message, most of which have none of the fields.
    if LEVEL_FIELDS.isdisjoint(fields):
        return None
    log = fields.get("log")
    nested = log.get("level") if isinstance(log, dict) else None
    for value in (*(fields.get(name) for name in TEXT_LEVEL_FIELDS), nested):
        # A level may mean something else than severity, as in a game: no problem is noted.
        if isinstance(value, str) and (severity := parse_level(value)) is not None:
            return severity
    level = fields.get("level")
    if isinstance(level, int) and not isinstance(level, bool):
        if GELF_FIELD in fields and 0 <= level < len(SYSLOG_LEVELS):
            return SYSLOG_LEVELS[level]
        if level in PINO_LEVELS:
            return PINO_LEVELS[level]
    number = fields.get("severityNumber", fields.get("severity_number"))
    if isinstance(number, int) and 1 <= number <= 24:
        # OpenTelemetry numbers four steps to each severity; TRACE is shown as DEBUG.
        return Severity(max((number - 1) // 4 * 4 + 1, int(Severity.DEBUG)))
    return None


def find_level(text: str) -> Severity | None:
    """Return the level in a line of text; None where it has none."""
    for match in TEXT_LEVEL.finditer(COLOUR.sub("", text[:TEXT_HEAD])):
        if match["klog"]:
            return KLOG[match["klog"]]
        name = next(value for value in match.groups() if value)
        if (severity := parse_level(name)) is not None:
            return severity
    return None


def guess_severity(fields: Mapping[str, Any], kind: str, subject: str) -> Severity:
    """Return what the type, the subject and the status of a message suggest."""
    if kind == STREAMED_TYPE:
        return Severity.DEBUG
    inner = fields.get("payload") or fields.get("data")
    status = fields.get("status")
    if status is None and isinstance(inner, dict):
        status = inner.get("status")
    words = f"{kind} {subject} {status if isinstance(status, str) else ''}".lower()
    if FAILURE_WORDS.search(words) or fields.get("error") or fields.get("error_type"):
        return Severity.ERROR
    if WARNING_WORDS.search(words):
        return Severity.WARN
    return Severity.INFO
