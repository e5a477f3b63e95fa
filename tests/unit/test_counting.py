"""How many live pages somebody has open, counted as they come and go."""

import random
from collections import Counter

from almenara.config import ServerSettings
from almenara.scope import FULL_SCOPE
from almenara.security.auth_context import AuthContext
from almenara.security.connections import Open, OpenPages
from almenara.security.identity import Identity, Person, Role


def ticket(subject: str) -> AuthContext:
    person = Person(name=subject, subject=subject)
    return AuthContext(identity=Identity(person=person, role=Role.VIEWER, scope=FULL_SCOPE))


def test_the_pages_of_a_user_and_of_an_address_are_counted_without_looking_at_all() -> None:
    seed = 7
    chance = random.Random(seed)
    server = ServerSettings(websockets_per_address=7, websockets_per_user=5)
    them = OpenPages(server, "token")
    users = [ticket(f"user-{it}") for it in range(40)]
    # Of IPv6 the addresses of one site are one.
    addresses = [f"192.0.2.{it}" for it in range(15)]
    addresses += [f"2001:db8:0:{it % 5}::{it}" for it in range(15)]
    sites = {it: it.rpartition("::")[0] or it for it in addresses}
    opened: list[Open] = []
    full = 0
    for _ in range(20_000):
        if opened and chance.random() < 0.49:
            them.closed(opened.pop(chance.randrange(len(opened))))
            continue
        who, address = chance.choice(users), chance.choice(addresses)
        of_user = sum(it.ticket.user == who.user for it in opened)
        of_address = sum(sites[it.address] == sites[address] for it in opened)
        refused = them.room(who, address) is not None
        assert refused is (of_user >= 5 or of_address >= 7)
        full += refused
        if not refused:
            opened.append(them.opened(who, address, lambda _: None))
    assert full > 200
    for it in opened:
        them.closed(it)
    assert list(them) == []
    assert (them._of_address, them._of_user) == (Counter(), Counter())
    assert not them._of_address.keys() | them._of_user.keys()
    print(f"seed {seed}: 20,000 comings and goings, {full} over a limit refused, 0 miscounted")
