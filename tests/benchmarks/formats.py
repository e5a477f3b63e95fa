"""Formats for older events, on events of the demo fleet: `python tests/benchmarks/formats.py`.

Measures bytes, processor time, and a search for a word, for rows, sealed blocks, Parquet and
tantivy; and three structures that tell which blocks have a word. pyarrow and tantivy are measured
where they are installed. `--short` measures little.
"""

import argparse
import io
import sqlite3
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[1]))

from almenara.bus import block_format
from almenara.bus.block_format import Block, Entry, encode_block
from almenara.bus.codec import event_row, normalize
from almenara.bus.text_index import count_words
from almenara.bus.work import Submission
from almenara.bus.writer import Writer
from almenara.config import StorageSettings
from almenara.signals import Event
from almenara_demo.fleet import Fleet
from almenara_nats.mapping import read_messages

ABSENT = "notthere"

T = TypeVar("T")
Sequenced = list[tuple[int, Event]]


def read_fleet_message(message: Any, number: int, moment: datetime) -> Event:
    """Return the event of a message of the demo fleet."""
    (event,) = read_messages(
        message.subject, {name.lower(): text for name, text in message.headers.items()},
        message.payload, stream="FLEET", sequence=number,
        received=int(moment.timestamp() * 1e6),
    )  # fmt: skip
    return event


def make_events(count: int) -> Sequenced:
    moment = [datetime(2026, 11, 1, tzinfo=UTC)]
    events: Sequenced = []
    fleet = Fleet(7, clock=lambda: moment[0])
    for number, message in zip(range(1, count + 1), fleet.messages(100), strict=False):
        moment[0] += timedelta(seconds=message.wait)
        event = read_fleet_message(message, number, moment[0])
        events.append((number, normalize(event, "nats")))  # type: ignore[arg-type]
    return events


def measure(function: Callable[[], Any]) -> tuple[float, Any]:
    """Return the processor seconds of a call, and its result."""
    started = time.process_time()
    result = function()
    return time.process_time() - started, result


def split(events: list[T], size: int) -> list[list[T]]:
    return [events[start : start + size] for start in range(0, len(events), size)]


def measure_rows(events: Sequenced) -> Iterator[tuple[str, float, float, float | None]]:
    with tempfile.TemporaryDirectory() as folder:
        settings = StorageSettings(dir=Path(folder))
        writer = Writer(Path(folder) / "almenara.db", settings)

        def write() -> None:
            for part in split(events, 500):
                batch = [event for _, event in part]
                writer.write([Submission(batch, "nats", lambda refused: None)])

        with closing(writer.connection) as connection:
            seconds, _ = measure(write)
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            search, _ = measure(
                lambda: connection.execute(
                    "SELECT rowid FROM events_text WHERE events_text MATCH ?", (ABSENT,)
                ).fetchall()
            )
        yield "rows in SQLite, all indexes", pages * 4096, seconds, search


class ZlibCompressor:
    """What version 1 of the format used, with the interface of zstd."""

    def __init__(self, level: int) -> None:
        self._compressor = zlib.compressobj(6)
        self.compress, self.flush = self._compressor.compress, self._compressor.flush

    def set_pledged_input_size(self, size: int) -> None:
        pass


def measure_blocks(events: Sequenced) -> Iterator[tuple[str, float, float, float | None]]:
    entries = [event_entry(sequence, event) for sequence, event in events]
    for size in (500, 1_000, 2_000, 4_000):
        yield measure_encoding(f"blocks of {size:,}, zstd 3", entries, size)
    for level in (1, 6, 9):
        with patch.object(block_format, "LEVEL", level):
            yield measure_encoding(f"blocks of 2,000, zstd {level}", entries, 2_000)
    with patch("almenara.bus.block_format.zstd.ZstdCompressor", ZlibCompressor):
        yield measure_encoding("blocks of 2,000, zlib 6", entries, 2_000)


def event_entry(sequence: int, event: Event) -> Entry:
    """Return a normalized event as an entry of a block."""
    *names, data, _, _ = event_row(sequence, event, lambda text: text)
    return (*names, data)


def measure_encoding(name: str, entries: list[Entry], size: int) -> tuple[str, float, float, float]:
    seconds, blocks = measure(lambda: list(map(encode_block, split(entries, size))))
    search, _ = measure(lambda: list(map(search_block, blocks)))
    return name, sum(map(len, blocks)), seconds, search


def search_block(content: bytes) -> bool:
    piece, _, _ = Block(content).texts("data")
    return ABSENT.encode() in piece.lower()


def measure_parquet(events: Sequenced) -> Iterator[tuple[str, float, float, float | None]]:
    try:
        import pyarrow
        from pyarrow import compute, parquet
    except ImportError:
        return
    names = ("id", "source", "origin", "type", "subject", "time", "correlation", "raw", "problem")

    def write(size: int) -> bytes:
        columns: dict[str, list[Any]] = {
            name: [getattr(event, name) for _, event in events] for name in names
        }
        columns["sequence"] = [sequence for sequence, _ in events]
        columns["severity"] = [int(event.severity) for _, event in events]
        columns["data"] = [bytes(event.data).decode() for _, event in events]
        columns["attributes"] = [str(event.attributes) for _, event in events]
        output = io.BytesIO()
        parquet.write_table(
            pyarrow.table(columns), output, compression="zstd", compression_level=3,
            row_group_size=size,
        )  # fmt: skip
        return output.getvalue()

    for size in (2_000, 100_000):
        seconds, content = measure(lambda: write(size))  # noqa: B023

        def search(content: bytes = content) -> Any:
            table = parquet.read_table(io.BytesIO(content), columns=["data"])
            return compute.any(compute.match_substring(table["data"], ABSENT, ignore_case=True))

        yield f"Parquet, groups of {size:,}, zstd 3", len(content), seconds, measure(search)[0]


def measure_tantivy(events: Sequenced) -> Iterator[tuple[str, float, float, float | None]]:
    try:
        import tantivy
    except ImportError:
        return
    builder = tantivy.SchemaBuilder()
    builder.add_integer_field("sequence", indexed=True, fast=True)
    builder.add_text_field("data", stored=True)
    with tempfile.TemporaryDirectory() as folder:
        index = tantivy.Index(builder.build(), path=folder)

        def write() -> None:
            writer = index.writer(50_000_000, 1)
            for sequence, event in events:
                writer.add_document(
                    tantivy.Document(sequence=sequence, data=bytes(event.data).decode())
                )
            writer.commit()
            writer.wait_merging_threads()

        seconds, _ = measure(write)
        index.reload()
        searcher = index.searcher()
        query = index.parse_query(ABSENT, ["data"])
        search, _ = measure(lambda: searcher.search(query, 100))
        stored = sum(file.stat().st_size for file in Path(folder).iterdir())
        yield "tantivy, payloads alone", stored, seconds, search


def build_filter(words: Collection[str]) -> bytes:
    """A Bloom filter: ten bits and four probes a word."""
    content = bytearray(max(1, (len(words) * 10 + 7) // 8))
    for word in words:
        for bit in probe(word, len(content) * 8):
            content[bit >> 3] |= 1 << (bit & 7)
    return bytes(content)


def may_have(content: bytes, word: str) -> bool:
    return all(content[bit >> 3] >> (bit & 7) & 1 for bit in probe(word, len(content) * 8))


def probe(word: str, bits: int) -> list[int]:
    first, step = zlib.crc32(word.encode()), zlib.crc32(word.encode(), 1) | 1
    return [(first + number * step) % bits for number in range(4)]


def measure_filters(events: Sequenced) -> Iterator[tuple[str, float, float, float | None]]:
    """Structures that tell which blocks have a word."""
    blocks = split(events, 2_000)
    words: list[Counter[str]] = []
    for block in blocks:
        words.append(Counter())
        count_words(words[-1], [(event.subject, bytes(event.data).decode()) for _, event in block])
    seconds, filters = measure(lambda: list(map(build_filter, words)))
    search, _ = measure(lambda: [may_have(content, ABSENT) for content in filters])
    yield "words: Bloom filter of each block", sum(map(len, filters)), seconds, search
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(
            "CREATE VIRTUAL TABLE words USING fts5 (text, content='', detail='none')"
        )

        def index() -> None:
            connection.executemany(
                "INSERT INTO words (rowid, text) VALUES (?, ?)",
                ((number, " ".join(sorted(each))) for number, each in enumerate(words, 1)),
            )
            connection.execute("INSERT INTO words (words) VALUES ('optimize')")

        seconds, _ = measure(index)
        (stored,) = connection.execute("SELECT sum(length(block)) FROM words_data").fetchone()
        search, _ = measure(
            lambda: connection.execute(
                "SELECT rowid FROM words WHERE words MATCH ?", (ABSENT,)
            ).fetchall()
        )
        yield "words: FTS5 over blocks", stored, seconds, search
    slices = max(map(len, filters)) * 8
    # One row of bits for each bit of a filter, as wide as there are blocks.
    yield "words: bit-sliced over blocks", slices * -(-len(blocks) // 8), seconds, None


MEASUREMENTS = (measure_rows, measure_blocks, measure_parquet, measure_tantivy, measure_filters)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="measure little")
    count = 6_000 if parser.parse_args().short else 100_000
    events = make_events(count)
    payload = sum(len(bytes(event.data)) for _, event in events) / count
    print(f"{count:,} events with {payload:.0f} bytes of payload")
    print(f"{'':36}{'B/event':>9}{'µs/event':>10}{'absent word':>14}")
    for measured in (
        measure_rows,
        measure_blocks,
        measure_parquet,
        measure_tantivy,
        measure_filters,
    ):
        for name, stored, seconds, search in measured(events):
            searched = "" if search is None else f"{search * 1e3:.2f} ms"
            print(f"{name:36}{stored / count:>9.1f}{seconds / count * 1e6:>10.1f}{searched:>14}")


if __name__ == "__main__":
    main()
