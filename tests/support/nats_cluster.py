"""A cluster of three real nats-servers."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.servers import NatsServer, free_port


@contextmanager
def nats_cluster(folder: Path) -> Iterator[list[NatsServer]]:
    """Run three servers that know each other; their names are n0, n1 and n2."""
    servers = [NatsServer(folder / f"nats-{number}") for number in range(3)]
    ports = [free_port() for _ in servers]
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
    for number, (server, port) in enumerate(zip(servers, ports, strict=True)):
        server.config.write_text(
            server.config.read_text() + f"server_name: n{number}\n"
            # A client that learns of other servers would connect past a link that is cut.
            "cluster { name: c, no_advertise: true, "
            f'listen: "127.0.0.1:{port}", routes: [{routes}] }}\n'
        )
    try:
        for server in servers:
            server.start()
        yield servers
    finally:
        for server in servers:
            server.stop()
