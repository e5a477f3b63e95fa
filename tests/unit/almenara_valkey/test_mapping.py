"""Replies of servers as resources, samples and events; whatever they contain."""

import string
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, strategies as st

from almenara.bus.validation import check_batch
from almenara.sdk import Changes
from almenara.sdk.servers import Address
from almenara.signals import Resource
from almenara_valkey.channels import map_channels, parse_subscribers
from almenara_valkey.client import Connection
from almenara_valkey.command_log import LOGS, SLOW, describe_command, last_number, make_log_events
from almenara_valkey.info import (
    has_command_log,
    list_replicas,
    make_address,
    parse_info,
    read_latencies,
    read_number,
)
from almenara_valkey.mapping import Counters, find_transitions, make_samples, map_server
from almenara_valkey.settings import URLS, DeploymentSettings, ValkeySettings
from almenara_valkey.streams import StreamReader
from almenara_valkey.topology import parse_nodes

NAMES = (
    "role", "run_id", "redis_mode", "used_memory", "maxmemory", "maxmemory_policy", "loading",
    "master_host", "master_port", "master_link_status", "master_repl_offset", "slave0",
    "slave_repl_offset", "cmdstat_get", "errorstat_ERR", "db0", "evicted_keys", "keyspace_hits",
    "keyspace_misses", "uptime_in_seconds", "rdb_last_bgsave_status", "cluster_state",
)  # fmt: skip
VALUES = st.one_of(
    st.text(max_size=30),
    st.sampled_from(["nan", "inf", "-1", "1e999", "slave", "master", "cluster", "ip=a,port=1"]),
    st.integers().map(str),
    st.just("9" * 5_000),
)
INFOS = st.dictionaries(st.sampled_from(NAMES), VALUES)


@given(INFOS, INFOS)
def test_server_with_any_info_becomes_valid_signals(
    first: dict[str, str], second: dict[str, str]
) -> None:
    before = map_server("lab", "a:1", first, 0, False)
    after = map_server("lab", "a:1", second, 0, True)
    counters = Counters(run_id=second.get("run_id", ""), at=1.0, info=first)
    samples = list(make_samples("lab", "a:1", second, counters, 2.0))
    events = list(find_transitions(Changes(before=before, after=after)))
    check_batch([before, after, *samples, *events])


REPLIES = st.recursive(
    st.one_of(st.none(), st.integers(), st.just(10**400), st.text(max_size=20)),
    lambda children: st.lists(children, max_size=7),
    max_leaves=30,
)


@given(REPLIES)
def test_any_log_is_read(reply: Any) -> None:
    for log in LOGS:
        check_batch(make_log_events(log, "lab", "a:1", "run", reply, shows_key=True))
    channels, samples = map_channels("lab", parse_subscribers(reply))
    check_batch([*channels, *samples])
    assert isinstance(last_number(reply), int)


@given(st.text(alphabet=string.printable, max_size=200))
def test_any_list_of_nodes_is_read(reply: str) -> None:
    for member in parse_nodes(reply, Address("own", 1)):
        assert 0 < member.address.port < 65536


class Replies:
    """A server with one stream, of which the numbers have more digits than the protocol allows."""

    async def call(self, *command: str | int) -> Any:
        if command[0] == "XLEN":
            return 10**400
        return [["name", "g", "pending", 10**400, "lag", 3, "consumers", 10**400]]


@pytest.mark.anyio
async def test_numbers_beyond_the_protocol_are_left_out() -> None:
    reader = StreamReader("lab", ["s"], discovers=False)
    resources, samples = await reader.read(cast("Connection", Replies()), 1.0)
    check_batch([*resources, *samples])
    assert [(sample.metric, sample.value) for sample in samples] == [("lag", 3.0)]


@pytest.mark.parametrize(
    ("version", "knows"), [("8.1.4", True), ("8.0", False), ("9" * 5_000, False)]
)
def test_version_decides_whether_there_is_a_command_log(version: str, knows: bool) -> None:
    assert has_command_log({"valkey_version": version}) is knows


def test_info_is_parsed() -> None:
    info = parse_info("# Server\r\nrun_id:abc\r\nslave0:ip=10.0.0.2,port=6380,state=online\r\n")
    assert info == {"run_id": "abc", "slave0": "ip=10.0.0.2,port=6380,state=online"}
    assert list_replicas(info) == [Address("10.0.0.2", 6380)]
    assert parse_info(None) == {}
    assert read_number({"a": "nan"}, "a") is None


def test_latencies_are_read_in_seconds() -> None:
    info = parse_info(
        "latency_percentiles_usec_get:p50=1.003,p99=3000.5,p99.9=4000\r\n"
        "latency_percentiles_usec_set:p50=1.0\r\nlatency_percentiles_usec_del:p99=x\r\n"
    )
    assert read_latencies(info) == {"get": pytest.approx(0.0030005)}


def test_nodes_without_address_are_left_out() -> None:
    reply = (
        "1 10.0.0.1:7000@17000,node-a myself,master - 0 0 1 connected 0-5460\n"
        "2 [fd00::2]:7001@17001 slave,fail 1 0 0 1 connected\n"
        "3 :0@0 master,noaddr - 0 0 3 disconnected\n"
        "4 :7003@17003 myself,master - 0 0 1 connected 5461-16383\n"
        "5 10.0.0.5:7004@17004 handshake - 0 0 0 connected\n"
    )
    members = parse_nodes(reply, Address("own", 1))
    assert [(str(member.address), member.is_failed) for member in members] == [
        ("10.0.0.1:7000", False), ("[fd00::2]:7001", True), ("own:7003", False),
    ]  # fmt: skip


@pytest.mark.parametrize("port", ["0", "65536", "x", "", None, "-1", "9" * 5_000])
def test_address_needs_a_valid_port(port: str | None) -> None:
    assert make_address("a", port) is None


@pytest.mark.parametrize(
    ("arguments", "command", "data"),
    [
        (["get", "k"], "GET", {"arguments": 1, "key": "k"}),
        (["AUTH", "user", "secret"], "AUTH", {"arguments": 2}),
        (["config", "set", "requirepass", "secret"], "CONFIG SET", {"arguments": 2}),
        (["EVAL", "return 'secret'", "0"], "EVAL", {"arguments": 2}),
        ([], "?", {"arguments": 0}),
    ],
)
def test_slow_command_shows_at_most_a_key(
    arguments: list[str], command: str, data: dict[str, Any]
) -> None:
    assert describe_command(arguments, shows_key=True) == (command, data)


def test_large_replies_are_not_numbered_with_slow_commands() -> None:
    entry = [3, 1_700_000_000, 4_096, ["get", "k"], "10.0.0.1:5", "shop"]
    (slow,), (large,) = (
        make_log_events(log, "lab", "a:1", "run", [entry], shows_key=False)
        for log in (SLOW, LOGS[2])
    )
    assert slow.id != large.id
    assert large.data == {
        "reason": "the reply of GET had 4,096 bytes", "command": "GET", "bytes": 4_096,
        "arguments": 1, "client": "shop",
    }  # fmt: skip


def test_rates_are_left_out_after_a_restart_or_reset() -> None:
    def metrics(run_id: str, hits: str) -> set[str]:
        before = Counters(run_id="a", at=1.0, info={"keyspace_hits": "5", "keyspace_misses": "0"})
        info = {"run_id": run_id, "keyspace_hits": hits, "keyspace_misses": "0"}
        return {sample.metric for sample in make_samples("lab", "s", info, before, 2.0)}

    assert "hit_rate" in metrics("a", "7")
    assert "hit_rate" not in metrics("b", "7")
    assert "hit_rate" not in metrics("a", "3")


def replication_lag(info: str) -> float | None:
    samples = make_samples("lab", "s", parse_info(info), None, 2.0)
    return next((each.value for each in samples if each.metric == "replication_lag"), None)


PRIMARY = "role:master\r\nmaster_repl_offset:500000000000\r\n"
SYNCHRONIZED = "slave0:ip=10.0.0.2,port=6379,state=online,offset=499999999900,lag=1\r\n"


@pytest.mark.parametrize(
    ("info", "lag"),
    [
        (PRIMARY + SYNCHRONIZED, 100),
        # While a replica loads the data of the primary, it has acknowledged nothing.
        (PRIMARY + "slave0:ip=10.0.0.2,port=6379,state=wait_bgsave,offset=0,lag=0\r\n", None),
        (PRIMARY + "slave0:ip=10.0.0.2,port=6379,state=send_bulk,offset=0,lag=0\r\n", None),
        (PRIMARY + SYNCHRONIZED + "slave1:ip=10.0.0.3,port=6379,state=wait_bgsave,offset=0", 100),
        (PRIMARY + SYNCHRONIZED + "slave1:ip=10.0.0.3,port=6379,state=online,offset=0,lag=0", 100),
        ("role:slave\r\nmaster_link_status:up\r\nslave_repl_offset:90\r\n"
         "slave_read_repl_offset:100", 10),
        ("role:slave\r\nmaster_link_status:down\r\nslave_repl_offset:90\r\n"
         "slave_read_repl_offset:100", None),
    ],
)  # fmt: skip
def test_lag_is_that_of_synchronized_replicas(info: str, lag: float | None) -> None:
    assert replication_lag(info) == lag


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://cache:6379", "another scheme"),
        ("redis://:secret@cache", "must not have a user or password"),
        ("redis://cache/1", "must not have a path, database"),
        ("redis://cache:99999", "no URL"),
        ("redis://cache:secret", "no URL"),
        ("redis://", "no host"),
    ],
)
def test_wrong_url_is_refused(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        URLS.parse(url)
    assert "secret" not in str(refusal.value)


def test_settings_refuse_mixed_tls_and_repeated_names() -> None:
    with pytest.raises(ValueError, match="TLS for all"):
        DeploymentSettings(name="a", urls=["redis://a", "rediss://b"])
    deployment = DeploymentSettings(name="a", urls=["redis://a"])
    with pytest.raises(ValueError, match="unique"):
        ValkeySettings(deployments=[deployment, deployment])


def test_promotion_has_an_id_of_its_own() -> None:
    def server(role: str, replication: str) -> Resource:
        info = {"role": role, "run_id": "r", "master_replid": replication, "master_host": "p",
                "master_port": "1", "master_link_status": "up"}  # fmt: skip
        return map_server("lab", "s", info, 0, False)

    replica = server("slave", "1")
    ids = [
        event.id
        for replication in ("2", "3", "3")
        for event in find_transitions(Changes(before=replica, after=server("master", replication)))
        if event.type == "valkey.server.promoted"
    ]
    assert len(ids) == 3
    assert len(set(ids)) == 2
    assert msgspec.structs.asdict(replica)["status"] == "ok"
