"""Open WebSockets, counted by user and address."""

import random
from collections import Counter

from almenara.config import ServerSettings
from almenara.scope import FULL_SCOPE
from almenara.security.auth_context import AuthContext
from almenara.security.connections import Connection, OpenConnections
from almenara.security.identity import Identity, Role, User


def context_of(subject: str) -> AuthContext:
    user = User(name=subject, subject=subject)
    return AuthContext(identity=Identity(user=user, role=Role.VIEWER, scope=FULL_SCOPE))


def test_connections_are_counted_by_user_and_address() -> None:
    seed = 7
    chance = random.Random(seed)
    server = ServerSettings(websockets_per_address=7, websockets_per_user=5)
    connections = OpenConnections(server, "token")
    users = [context_of(f"user-{each}") for each in range(40)]
    # Of IPv6 the addresses of one site are one.
    addresses = [f"192.0.2.{each}" for each in range(15)]
    addresses += [f"2001:db8:0:{each % 5}::{each}" for each in range(15)]
    sites = {each: each.rpartition("::")[0] or each for each in addresses}
    opened: list[Connection] = []
    full = 0
    for _ in range(20_000):
        if opened and chance.random() < 0.49:
            connections.remove(opened.pop(chance.randrange(len(opened))))
            continue
        caller, address = chance.choice(users), chance.choice(addresses)
        of_user = sum(each.context.user_key == caller.user_key for each in opened)
        of_address = sum(sites[each.address] == sites[address] for each in opened)
        refused = connections.check_limits(caller, address) is not None
        assert refused is (of_user >= 5 or of_address >= 7)
        full += refused
        if not refused:
            opened.append(connections.add(caller, address, lambda _: None))
    assert full > 200
    for each in opened:
        connections.remove(each)
    assert list(connections) == []
    assert (connections._by_address, connections._by_user) == (Counter(), Counter())
    assert not connections._by_address.keys() | connections._by_user.keys()
    print(
        f"seed {seed}: 20,000 connects and disconnects, {full} over a limit refused, 0 miscounted"
    )
