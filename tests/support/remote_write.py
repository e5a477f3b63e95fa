"""A receiver of remote write that decodes what it gets with other libraries than the sender's."""

import http.server
import threading
from collections.abc import Callable
from typing import Any, Self

import cramjam
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

Row = tuple[tuple[tuple[str, str], ...], int, float]
"""Labels in the order they came in, milliseconds and value."""


def _load_message() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="remote.proto", package="prometheus")
    field = descriptor_pb2.FieldDescriptorProto
    for message, fields in {
        "Label": (("name", 1, field.TYPE_STRING, ""), ("value", 2, field.TYPE_STRING, "")),
        "Sample": (("value", 1, field.TYPE_DOUBLE, ""), ("timestamp", 2, field.TYPE_INT64, "")),
        "TimeSeries": (("labels", 1, field.TYPE_MESSAGE, "Label"),
                       ("samples", 2, field.TYPE_MESSAGE, "Sample")),
        "WriteRequest": (("timeseries", 1, field.TYPE_MESSAGE, "TimeSeries"),),
    }.items():  # fmt: skip
        described = file.message_type.add(name=message)
        for name, number, kind, inner in fields:
            is_message = kind == field.TYPE_MESSAGE
            described.field.add(
                name=name, number=number, type=kind,
                label=field.LABEL_REPEATED if is_message else field.LABEL_OPTIONAL,
                type_name=f".prometheus.{inner}" if is_message else None,
            )  # fmt: skip
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("prometheus.WriteRequest"))


WriteRequest = _load_message()


def decode_request(content: bytes) -> list[Row]:
    """Return the samples of a request that is not compressed."""
    return [
        (tuple((label.name, label.value) for label in series.labels), each.timestamp, each.value)
        for series in WriteRequest.FromString(content).timeseries
        for each in series.samples
    ]


class Receiver:
    """Stores what it accepts; `answer` decides by the samples and may return further headers."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.requests: list[dict[str, str]] = []
        """The headers of each request."""
        self.answer: Callable[[list[Row]], tuple[int, dict[str, str]]] = lambda rows: (204, {})
        self.port = 0
        self._server: http.server.ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api/v1/write"

    def start(self) -> Self:
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers["content-length"])
                body = self.rfile.read(length)
                if len(body) < length:
                    # The sender was killed.
                    return
                rows = decode_request(bytes(cramjam.snappy.decompress_raw(body)))
                receiver.requests.append(
                    {name.lower(): each for name, each in self.headers.items()}
                )
                status, headers = receiver.answer(rows)
                if status < 300:
                    receiver.rows += rows
                content = b"" if status == 204 else b"answer\n\x1b[31mof the receiver"
                self.send_response(status)
                for name, value in {**headers, "content-length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        http.server.ThreadingHTTPServer.allow_reuse_address = True
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()
