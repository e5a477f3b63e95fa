"""The reply to INFO: sections of `name:value` lines (https://valkey.io/commands/info/)."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from almenara.sdk.servers import Address

COMMAND_STATISTICS: Final = "cmdstat_"
LATENCY_STATISTICS: Final = "latency_percentiles_usec_"
ERROR_STATISTICS: Final = "errorstat_"
REPLICA: Final = re.compile(r"slave\d+")
DATABASE: Final = re.compile(r"db\d+")
VERSION_PART: Final = re.compile(r"\d{1,9}")
PORT: Final = re.compile(r"\d{1,5}")
LARGEST: Final = 2**63
"""Integers of the protocol are below it; Python's have any number of digits."""
MAX_LINES: Final = 5_000

Info = Mapping[str, str]


def parse_info(reply: Any) -> Info:
    """The fields of a reply; anything but a text has none."""
    if not isinstance(reply, str):
        return {}
    lines = reply.splitlines()[:MAX_LINES]
    pairs = (line.partition(":") for line in lines if not line.startswith("#"))
    return {name.strip(): value.strip() for name, colon, value in pairs if colon}


def parse_fields(text: str) -> dict[str, str]:
    """The fields of `calls=3,usec=12`."""
    pairs = (part.partition("=") for part in text.split(","))
    return {name.strip(): value.strip() for name, equals, value in pairs if equals}


def read_number(info: Mapping[str, str], name: str) -> float | None:
    """A field as a number; None where it is missing or not one."""
    try:
        value = float(info[name])
    except (KeyError, ValueError):
        return None
    # `nan` and `inf` are valid for float.
    return value if abs(value) < 1e18 else None


def read_count(info: Mapping[str, str], name: str) -> int:
    """A field as a whole number; 0 where it is missing."""
    return int(read_number(info, name) or 0)


def as_integer(value: Any) -> int | None:
    """An integer of a reply; None for anything else, and for one beyond 64 bits."""
    return value if isinstance(value, int) and abs(value) < LARGEST else None


def read_mode(info: Info) -> str:
    """`standalone`, `sentinel` or `cluster`."""
    return info.get("server_mode") or info.get("redis_mode") or "standalone"


def read_version(info: Info) -> str:
    """The product and its version, such as `Valkey 8.1.4` or `Redis 7.0.15`."""
    if version := info.get("valkey_version"):
        return f"Valkey {version}"
    version = info.get("redis_version", "")
    return f"Redis {version}" if version else ""


def has_command_log(info: Info) -> bool:
    """Whether a server knows COMMANDLOG: Valkey 8.1 and later."""
    parts = info.get("valkey_version", "").split(".")
    numbers = [int(part) for part in parts if VERSION_PART.fullmatch(part)]
    return numbers >= [8, 1]


def list_replicas(info: Info) -> list[Address]:
    """The replicas that a primary names."""
    replicas = []
    for name, value in info.items():
        if REPLICA.fullmatch(name):
            fields = parse_fields(value)
            if (address := make_address(fields.get("ip"), fields.get("port"))) is not None:
                replicas.append(address)
    return sorted(replicas)


def read_primary(info: Info) -> Address | None:
    """The primary that a replica names."""
    return make_address(info.get("master_host"), info.get("master_port"))


def make_address(host: str | None, port: str | None) -> Address | None:
    """An address; None where it is not complete."""
    if not host or host == "?" or not port or not PORT.fullmatch(port):
        return None
    return Address(host, int(port)) if 0 < int(port) < 65536 else None


def list_commands(info: Info) -> Iterator[tuple[str, int, float]]:
    """Each command with its calls and microseconds since the statistics were reset."""
    for name, value in info.items():
        if name.startswith(COMMAND_STATISTICS):
            fields = parse_fields(value)
            calls, duration = read_number(fields, "calls"), read_number(fields, "usec")
            if calls is not None and duration is not None:
                yield name.removeprefix(COMMAND_STATISTICS).lower()[:100], int(calls), duration


def read_latencies(info: Info) -> dict[str, float]:
    """The 99th percentile of the duration of each command, in seconds, since the statistics were
    reset: of Redis 7 and later and of Valkey."""
    latencies = {}
    for name, value in info.items():
        if name.startswith(LATENCY_STATISTICS):
            duration = read_number(parse_fields(value), "p99")
            if duration is not None:
                command = name.removeprefix(LATENCY_STATISTICS).lower()[:100]
                latencies[command] = duration / 1e6
    return latencies


def count_keys(info: Info) -> int:
    """The keys of all databases."""
    return sum(
        read_count(parse_fields(value), "keys")
        for name, value in info.items()
        if DATABASE.fullmatch(name)
    )


def list_errors(info: Info) -> dict[str, int]:
    """How often each error was returned, by its first word."""
    return {
        name.removeprefix(ERROR_STATISTICS)[:40]: read_count(parse_fields(value), "count")
        for name, value in info.items()
        if name.startswith(ERROR_STATISTICS)
    }
