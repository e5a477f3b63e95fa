"""Which servers belong to a deployment, as its sentinels, cluster nodes or servers name them."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from almenara.sdk.servers import Address
from almenara_valkey.client import Connection
from almenara_valkey.info import Info, list_replicas, make_address, read_mode, read_primary

CLUSTER: Final = "cluster"
"""The mode of the nodes of a cluster."""
MAX_MEMBERS: Final = 1_000


class Member(msgspec.Struct, frozen=True):
    """A server that belongs to a deployment."""

    address: Address
    is_sentinel: bool = False
    primary_name: str = ""
    """The name under which sentinels watch its primary."""
    is_failed: bool = False
    """Whether the majority of the sentinels or nodes cannot reach it."""


async def list_members(connection: Connection, info: Info, primary_name: str) -> list[Member]:
    """The servers that one server names. Raises `ServerError`."""
    mode = read_mode(info)
    if mode == "sentinel":
        return (await _list_watched(connection, primary_name))[:MAX_MEMBERS]
    if mode == CLUSTER:
        reply = await connection.call("CLUSTER", "NODES")
        return parse_nodes(reply, connection.address)[:MAX_MEMBERS]
    primary = [read_primary(info)] if info.get("role") == "slave" else []
    named = [*primary, *list_replicas(info)]
    return [Member(address) for address in named if address is not None][:MAX_MEMBERS]


def parse_nodes(reply: Any, own: Address) -> list[Member]:
    """The members in a reply to CLUSTER NODES (https://valkey.io/commands/cluster-nodes/).

    A node that does not know its own address yet names none: it is `own`.
    """
    members = []
    for line in str(reply).splitlines():
        parts = line.split()
        if len(parts) < 8:
            continue
        host, _, port = parts[1].partition("@")[0].partition(",")[0].rpartition(":")
        flags = parts[2].split(",")
        if "handshake" in flags or "noaddr" in flags:
            continue
        host = host.strip("[]") or (own.host if "myself" in flags else "")
        if (address := make_address(host, port)) is not None:
            members.append(Member(address, is_failed="fail" in flags))
    return members


async def _list_watched(connection: Connection, primary_name: str) -> list[Member]:
    members: list[Member] = []
    for primary in _read_tables(await connection.call("SENTINEL", "MASTERS")):
        name = primary.get("name", "")
        if not name or (primary_name and name != primary_name):
            continue
        members += _make_members([primary], name)
        replicas = _read_tables(await connection.call("SENTINEL", "REPLICAS", name))
        members += _make_members(replicas, name)
        for sentinel in _read_tables(await connection.call("SENTINEL", "SENTINELS", name)):
            address = make_address(sentinel.get("ip"), sentinel.get("port"))
            if address is not None:
                members.append(Member(address, is_sentinel=True))
    return members


def _make_members(tables: Sequence[Mapping[str, str]], name: str) -> list[Member]:
    return [
        Member(address, primary_name=name, is_failed="o_down" in table.get("flags", ""))
        for table in tables
        if (address := make_address(table.get("ip"), table.get("port"))) is not None
    ]


def _read_tables(reply: Any) -> list[dict[str, str]]:
    """A reply of lists in which names and values alternate."""
    if not isinstance(reply, list):
        return []
    return [
        {str(name): str(value) for name, value in zip(row[::2], row[1::2], strict=False)}
        for row in reply
        if isinstance(row, list)
    ]
