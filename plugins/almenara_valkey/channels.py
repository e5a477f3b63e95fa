"""Channels of publish and subscribe, and how many subscribe to each, as far as that is bounded."""

from collections.abc import Mapping
from typing import Any, Final

from almenara.signals import Resource, Sample
from almenara_valkey.client import Connection
from almenara_valkey.info import Info, as_integer, read_count
from almenara_valkey.kinds import CHANNEL

MAX_LISTED: Final = 1_000
"""Channels of a server up to which their names are read: the reply has all of them."""
MAX_CHANNELS: Final = 100
"""Channels of a deployment that are shown: those with the most subscribers."""
LONGEST_NAME: Final = 500


async def read_channels(connection: Connection, info: Info) -> dict[str, int]:
    """The subscribers of each channel of one server; empty where it has too many channels. Raises
    `ServerError`."""
    if not 0 < read_count(info, "pubsub_channels") <= MAX_LISTED:
        return {}
    names = await connection.call("PUBSUB", "CHANNELS")
    if not isinstance(names, list) or not names:
        return {}
    return parse_subscribers(await connection.call("PUBSUB", "NUMSUB", *map(str, names)))


def parse_subscribers(reply: Any) -> dict[str, int]:
    """The channels in a reply to PUBSUB NUMSUB, a list in which names and numbers alternate."""
    if not isinstance(reply, list):
        return {}
    pairs = zip(reply[::2], reply[1::2], strict=False)
    return {
        str(name)[:LONGEST_NAME]: number
        for name, count in pairs
        if name and (number := as_integer(count)) is not None
    }


def map_channels(
    deployment: str, subscribers: Mapping[str, int]
) -> tuple[list[Resource], list[Sample]]:
    """The channels with the most subscribers as resources, with a sample each."""
    names = sorted(subscribers, key=lambda name: (-subscribers[name], name))[:MAX_CHANNELS]
    return (
        [Resource(kind=CHANNEL, namespace=deployment, name=name) for name in names],
        [
            Sample(
                kind=CHANNEL, namespace=deployment, name=name, metric="subscribers",
                value=float(subscribers[name]),
            )
            for name in names
        ],
    )  # fmt: skip
