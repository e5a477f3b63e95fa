"""A publisher that shares no code with Almenara: the NATS protocol over a socket."""

import contextlib
import socket


class RawClient:
    """Publishes without waiting for anybody; `flush` makes sure that the server has it."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.file = self.socket.makefile("rb")
        self.file.readline()
        self.socket.sendall(b'CONNECT {"verbose":false,"headers":true}\r\n')

    def publish(self, subject: str, payload: bytes, headers: dict[str, str] | None = None) -> None:
        if headers:
            block = "NATS/1.0\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items()) + "\r\n"
            head = block.encode()
            line = f"HPUB {subject} {len(head)} {len(head) + len(payload)}\r\n"
            self.socket.sendall(line.encode() + head + payload + b"\r\n")
        else:
            self.socket.sendall(f"PUB {subject} {len(payload)}\r\n".encode() + payload + b"\r\n")

    def flush(self) -> None:
        self.socket.sendall(b"PING\r\n")
        while (line := self.file.readline()) != b"PONG\r\n":
            assert line, "the server closed the connection"

    def close(self) -> None:
        with contextlib.suppress(OSError):
            # With something unread the system would reset the connection, and the server would lose
            # what it has not read of ours.
            self.socket.settimeout(3)
            self.socket.shutdown(socket.SHUT_WR)
            while self.socket.recv(65_536):
                pass
        self.file.close()
        self.socket.close()

    def make_stream(self, name: str, subjects: str) -> None:
        """Create a stream with the request that any client would send."""
        config = f'{{"name":"{name}","subjects":["{subjects}"],"storage":"file"}}'.encode()
        self.request(f"$JS.API.STREAM.CREATE.{name}", config)

    def request(self, subject: str, payload: bytes) -> bytes:
        """The answer of JetStream, which must be no error."""
        self.socket.sendall(b"SUB _INBOX.made 1\r\n")
        self.socket.sendall(
            f"PUB {subject} _INBOX.made {len(payload)}\r\n".encode() + payload + b"\r\n"
        )
        line = self.file.readline()
        assert line.startswith(b"MSG _INBOX.made"), line
        answer = self.file.read(int(line.split()[-1]) + 2)
        assert b'"error"' not in answer, answer
        self.socket.sendall(b"UNSUB 1\r\n")
        return answer
