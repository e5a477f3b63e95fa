"""Publishes events at a rate, each with its send time, until it reads a line.

`publisher.py <port of NATS> <events a second> <number of types>`; at the end it prints how many.
"""

import select
import sys
import time
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[2]))

from support.raw_nats import RawClient

STEP: Final = 0.002


def make_message(number: int, types: int) -> tuple[bytes, bytes]:
    """Subject and payload of an event with the current time."""
    kind = number % types
    # As text: rows of events omit times that are numbers.
    payload = (
        b'{"stamp":"%d","event_type":"BENCH_%d","story_id":"US-%d","task_id":"task-%06d","role":"DEV",'
        b'"num_agents":3,"agents":["agent-dev-001","agent-dev-002","agent-dev-003"]}'
    ) % (time.time_ns() // 1000, kind, number % 500, number)
    return b"bench.%d" % kind, payload


def main() -> None:
    port, rate, types = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    client = RawClient(port)
    started = time.monotonic()
    sent = 0
    while sys.stdin not in (ready := select.select([sys.stdin, client.socket], [], [], 0)[0]):
        if ready and b"PING" in client.socket.recv(4096):
            client.socket.sendall(b"PONG\r\n")
        due = int((time.monotonic() - started) * rate)
        if due > sent:
            lines = []
            for number in range(sent, due):
                subject, payload = make_message(number, types)
                lines.append(b"PUB %b %d\r\n%b\r\n" % (subject, len(payload), payload))
            client.socket.sendall(b"".join(lines))
            sent = due
        time.sleep(STEP)
    client.flush()
    client.close()
    print(sent)


if __name__ == "__main__":
    main()
