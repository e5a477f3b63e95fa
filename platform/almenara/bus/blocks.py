"""Sealed blocks: older events, compressed, in place of their rows and of the entries in indexes.

A block holds events that followed one another in the log; it is a row of the table `blocks`. Events
up to `position.sealed_through` are in blocks; later ones are rows (`almenara.bus.sealing`).

Beside the compressed content (`almenara.bus.block_format`), the database has what queries and
retention need without it: ranges of sequence and time, the highest severity, the names, an index of
the words, and what the events were counted as.
"""

import operator
import sqlite3
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from almenara.bus.block_format import (
    Block,
    DamagedBlockError,
    Entry,
    compress,
    decompress,
    encode_block,
    encode_columns,
    finish,
    join_columns,
)
from almenara.bus.block_words import (
    add_tokens,
    correlation_token,
    encode_counts,
    name_token,
    remove_tokens,
    severity_token,
    word_tokens,
)
from almenara.bus.codec import RowDecoder
from almenara.bus.counts import UNNUMBERED, WIDTHS, Group, add_groups, sum_pairs
from almenara.bus.names import add_pairs
from almenara.bus.removal import Tally, release
from almenara.bus.text_index import count_words
from almenara.signals import Event

SUMMARY: Final = 6
"""Place of the summary in a row of `blocks`."""
EVENTS_IN_STEP: Final = 250
"""Events whose words are collected in one step."""
SEQUENCE, SOURCE, ORIGIN, TYPE, SUBJECT, TIME, SEVERITY, CORRELATION = 0, 2, 3, 4, 5, 6, 7, 8
DATA: Final = 12
"""Places in an entry."""
_TEXTS: Final = operator.itemgetter(SUBJECT, DATA)
SEVERE_SHARE: Final = 20
"""The most severe events are stored apart once more where at most one in so many is."""

BlockRanges = tuple[int, int, int, int, int]
"""First sequence, number of events, first and last time, highest severity."""


class Summary(msgspec.Struct, array_like=True):
    """What the events of a block were counted as, stored with it."""

    groups: list[tuple[Group, int]]
    uses: dict[int, int]

    def tally(self) -> Tally:
        """Return what to count down when the block is removed."""
        groups = dict(self.groups)
        return Tally(sum(groups.values()), groups, groups, dict(self.uses))


class EncodedBlock(msgspec.Struct):
    """A block that is to be stored."""

    last: int
    """Sequence of its last event."""
    ranges: BlockRanges
    names: frozenset[str]
    """Sources, origins and types."""
    content: bytes
    tokens: list[str]
    """What queries find it by, besides its names."""
    word_counts: bytes
    severe: tuple[int, bytes] | None
    """A severity, and the block of the events that are at least so severe."""


def encode(entries: Sequence[Entry]) -> Generator[None, None, EncodedBlock]:
    """Return the block of events, in order of their sequences; yield after each short step."""
    columns = yield from encode_columns(entries)
    counts = yield from _count_words(entries)
    names = {name for place in (SOURCE, ORIGIN, TYPE) for name in _distinct(entries, place)}
    return EncodedBlock(
        entries[-1][SEQUENCE],
        _describe(entries),
        frozenset(names),
        join_columns(len(entries), columns),
        _list_tokens(entries, counts),
        encode_counts(counts),
        _encode_severe(entries),
    )


def _encode_severe(entries: Sequence[Entry]) -> tuple[int, bytes] | None:
    """Return the block of all events from a severity on, after the severity; None where no severity
    is rare."""
    levels = Counter(entry[SEVERITY] for entry in entries)
    number = 0
    for level in sorted(levels, reverse=True):
        if (number + levels[level]) * SEVERE_SHARE > len(entries):
            break
        number += levels[level]
    if not number:
        return None
    # Up to the next level that is left out, there is no other event.
    return level + 1, encode_block([entry for entry in entries if entry[SEVERITY] > level])


def _count_words(entries: Sequence[Entry]) -> Generator[None, None, Counter[str]]:
    """Return the number of events that have each word."""
    counts: Counter[str] = Counter()
    for start in range(0, len(entries), EVENTS_IN_STEP):
        count_words(counts, list(map(_TEXTS, entries[start : start + EVENTS_IN_STEP])))
        yield
    return counts


def _list_tokens(entries: Sequence[Entry], words: Iterable[str]) -> list[str]:
    tokens = word_tokens(words)
    tokens += [correlation_token(text) for text in _distinct(entries, CORRELATION) if text]
    tokens += map(severity_token, _distinct(entries, SEVERITY))
    return tokens


def _distinct(entries: Sequence[Entry], place: int) -> set[Any]:
    return set(map(operator.itemgetter(place), entries))


def insert_block(
    connection: sqlite3.Connection,
    block: EncodedBlock,
    groups: Mapping[Group, int],
    uses: Mapping[int, int],
) -> None:
    """Store a block, with what its events were counted as."""
    connection.execute(
        "INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?, ?)",
        (block.last, *block.ranges, _encode_summary(groups, uses)),
    )
    connection.execute("INSERT INTO block_contents VALUES (?, ?)", (block.last, block.content))
    _insert_filters(connection, block)


def _describe(entries: Sequence[Entry]) -> BlockRanges:
    """Return the first sequence, the number, the range of times and the highest severity."""
    times = [entry[TIME] for entry in entries]
    severity = max(_distinct(entries, SEVERITY))
    return entries[0][SEQUENCE], len(entries), min(times), max(times), severity


def _encode_summary(groups: Mapping[Group, int], uses: Mapping[int, int]) -> bytes:
    summary = Summary(sorted(groups.items()), dict(sorted(uses.items())))
    return compress(msgspec.json.encode(summary))


def _insert_filters(connection: sqlite3.Connection, block: EncodedBlock) -> None:
    numbers = sorted({_find_number(connection, name) for name in block.names})
    connection.executemany(
        "INSERT INTO block_names VALUES (?, ?)", [(number, block.last) for number in numbers]
    )
    add_tokens(connection, block.last, [*block.tokens, *map(name_token, numbers)])
    _insert_copies(connection, block.last, block.word_counts, block.severe)


def _insert_copies(
    connection: sqlite3.Connection, last: int, word_counts: bytes, severe: tuple[int, bytes] | None
) -> None:
    connection.execute("INSERT INTO block_word_counts VALUES (?, ?)", (last, word_counts))
    if severe is not None:
        connection.execute("INSERT INTO severe_events VALUES (?, ?, ?)", (last, *severe))


def _find_number(connection: sqlite3.Connection, text: str) -> int:
    """Return the number of a name; `UNNUMBERED` for one without."""
    row = connection.execute("SELECT number FROM names WHERE text = ?", (text,)).fetchone()
    return UNNUMBERED if row is None else int(row[0])


def read_block(connection: sqlite3.Connection, last: int) -> Block:
    """Return the block that ends with a sequence. Raises `DamagedBlockError`."""
    row = connection.execute(
        "SELECT content FROM block_contents WHERE block = ?", (last,)
    ).fetchone()
    if row is None or not isinstance(row[0], bytes):
        raise DamagedBlockError(f"the block that ends with sequence {last} cannot be read")
    return Block(row[0])


def read_severe(connection: sqlite3.Connection, last: int, severity: int) -> Block | None:
    """Return a block of those events in a block that are at least so severe, and maybe others; None
    where they are not stored apart. Raises `DamagedBlockError`."""
    row = connection.execute(
        "SELECT content FROM severe_events WHERE block = ? AND severity <= ?", (last, severity)
    ).fetchone()
    return None if row is None else Block(row[0])


def read_after(
    connection: sqlite3.Connection, after: int, limit: int, decoder: RowDecoder
) -> list[tuple[Any, ...]]:
    """Return up to `limit` rows of sealed events that follow a sequence, in order.

    A damaged block is reported to the decoder and left out.
    """
    rows: list[tuple[Any, ...]] = []
    ends = connection.execute(
        "SELECT last_sequence, events FROM blocks WHERE last_sequence > ? ORDER BY last_sequence",
        (after,),
    )
    for last, events in ends:
        try:
            block = read_block(connection, last)
            places = [
                place
                for place, sequence in enumerate(block.numbers("sequence"))
                if sequence > after
            ]
            rows += block.rows(places[: limit - len(rows)])
        except DamagedBlockError as error:
            decoder.skip(last, error, events)
        if len(rows) >= limit:
            break
    return rows


def remove_block(connection: sqlite3.Connection, last: int) -> int:
    """Remove the oldest block, which ends with a sequence; return how many events it had."""
    (events,) = connection.execute(
        "SELECT events FROM blocks WHERE last_sequence = ?", (last,)
    ).fetchone()
    tokens: list[str] = []
    try:
        tally = read_summary(connection, last).tally()
        tokens = _read_tokens(connection, last)
    except DamagedBlockError:
        tally = Tally(events, {}, {}, {})
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Older rows that could not be sealed may remain.
        (first_row,) = connection.execute("SELECT min(sequence) FROM events").fetchone()
        oldest_left = last + 1 if first_row is None else min(last + 1, first_row)
        _release_block(connection, tally, oldest_left)
        _delete_block(connection, last, tokens)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return tally.events


def _release_block(connection: sqlite3.Connection, tally: Tally, oldest_left: int) -> None:
    release(connection, tally, oldest_left)
    connection.execute("UPDATE position SET sealed_events = sealed_events - ?", (tally.events,))


def _delete_block(connection: sqlite3.Connection, last: int, tokens: list[str]) -> None:
    if tokens:
        remove_tokens(connection, last, [*tokens, *_name_tokens(connection, last)])
    connection.execute("DELETE FROM blocks WHERE last_sequence = ?", (last,))
    connection.execute("DELETE FROM block_contents WHERE block = ?", (last,))
    connection.execute("DELETE FROM block_names WHERE block = ?", (last,))
    _delete_copies(connection, last)


def _delete_copies(connection: sqlite3.Connection, last: int) -> None:
    """Delete what has parts of a block once more; queries read the block then."""
    connection.execute("DELETE FROM block_word_counts WHERE block = ?", (last,))
    connection.execute("DELETE FROM severe_events WHERE block = ?", (last,))


def _name_tokens(connection: sqlite3.Connection, last: int) -> list[str]:
    """Return the tokens of the names that a block had when it was stored."""
    rows = connection.execute("SELECT number FROM block_names WHERE block = ?", (last,))
    return [name_token(number) for (number,) in rows]


def remove_from_block(
    connection: sqlite3.Connection, last: int, is_removed: Callable[[Event], bool]
) -> int:
    """Remove single events from a block; return how many. Raises `DamagedBlockError`.

    Queries go on to find the block by what was removed, and read it in vain then.
    """
    block = read_block(connection, last)
    rows = block.rows(range(block.events))
    removed: list[tuple[int, Event]] = [
        (record.sequence, record.signal)
        for record in RowDecoder(is_quiet=True).events(connection, rows)
        if isinstance(record.signal, Event) and is_removed(record.signal)
    ]
    if not removed:
        return 0
    before = read_summary(connection, last).tally()
    tally = _tally_sealed(connection, removed, before)
    sequences = {sequence for sequence, _ in removed}
    entries = block.entries(range(block.events))
    remaining = [entry for entry in entries if entry[SEQUENCE] not in sequences]
    content = encode_block(remaining) if remaining else b""
    tokens = [] if remaining else _read_tokens(connection, last)
    connection.execute("BEGIN IMMEDIATE")
    try:
        _release_block(connection, tally, 0)
        if remaining:
            rest = _subtract(before, tally)
            connection.execute(
                "UPDATE blocks SET (first_sequence, events, first_time, last_time, severity,"
                " summary) = (?, ?, ?, ?, ?, ?) WHERE last_sequence = ?",
                (*_describe(remaining), _encode_summary(rest.groups, rest.uses), last),
            )
            connection.execute(
                "UPDATE block_contents SET content = ? WHERE block = ?", (content, last)
            )
            _delete_copies(connection, last)
        else:
            _delete_block(connection, last, tokens)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return len(removed)


def index_blocks(connection: sqlite3.Connection) -> None:
    """Index all blocks of a database of schema 6 or 7, which had another index of words."""
    for (last,) in connection.execute("SELECT last_sequence FROM blocks").fetchall():
        index_block(connection, last)


def index_block(connection: sqlite3.Connection, last: int) -> None:
    """Index a block by its content and its names; of a damaged one by its names alone."""
    tokens: list[str] = []
    try:
        entries = _read_entries(connection, last)
    except DamagedBlockError:
        pass
    else:
        counts = finish(_count_words(entries))
        tokens = _list_tokens(entries, counts)
        _insert_copies(connection, last, encode_counts(counts), _encode_severe(entries))
    add_tokens(connection, last, [*tokens, *_name_tokens(connection, last)])


def _read_tokens(connection: sqlite3.Connection, last: int) -> list[str]:
    """Return the tokens of a block, without those of its names."""
    entries = _read_entries(connection, last)
    return _list_tokens(entries, finish(_count_words(entries)))


def _read_entries(connection: sqlite3.Connection, last: int) -> list[Entry]:
    block = read_block(connection, last)
    return block.entries(range(block.events))


def read_summary(connection: sqlite3.Connection, last: int) -> Summary:
    """Return the summary of a block. Raises `DamagedBlockError`."""
    (stored,) = connection.execute(
        "SELECT summary FROM blocks WHERE last_sequence = ?", (last,)
    ).fetchone()
    try:
        return msgspec.json.decode(decompress(stored), type=Summary)
    except (msgspec.MsgspecError, TypeError) as error:
        raise DamagedBlockError("the summary of a block is damaged") from error


def copy_block(reading: sqlite3.Connection, writing: sqlite3.Connection, last: int) -> None:
    """Copy a block to another database, where uses of names were not counted."""
    summary = read_summary(reading, last)
    row = list(reading.execute("SELECT * FROM blocks WHERE last_sequence = ?", (last,)).fetchone())
    row[SUMMARY] = _encode_summary(dict(summary.groups), {})
    writing.execute("INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    row = reading.execute("SELECT * FROM block_contents WHERE block = ?", (last,)).fetchone()
    writing.execute("INSERT INTO block_contents VALUES (?, ?)", row)
    _insert_filters(writing, finish(encode(_read_entries(reading, last))))
    groups = dict(summary.groups)
    add_groups(writing, groups)
    add_pairs(writing, sum_pairs(groups))


def _tally_sealed(
    connection: sqlite3.Connection, events: Sequence[tuple[int, Event]], before: Tally
) -> Tally:
    """Return what some events of a block were counted as."""
    (counted_from,) = connection.execute("SELECT names_counted_from FROM position").fetchone()
    groups: dict[Group, int] = {}
    uses: dict[int, int] = {}
    for sequence, event in events:
        namespace = event.attributes.get("namespace", "")
        texts = (event.origin, event.type, namespace, event.source)
        numbers = [_find_number(connection, text) if text else 0 for text in texts]
        origin, kind, place, _ = numbers
        key = (event.time // WIDTHS[0], origin, kind, place, int(event.severity))
        if before.groups.get(key, 0) <= groups.get(key, 0):
            # From before schema 4: its namespace had no number.
            key = (key[0], origin, kind, UNNUMBERED, key[4])
        groups[key] = groups.get(key, 0) + 1
        if sequence > counted_from:
            for number in numbers:
                if number > 0 and before.uses.get(number, 0) > uses.get(number, 0):
                    uses[number] = uses.get(number, 0) + 1
    return Tally(len(events), groups, groups, uses)


def _subtract(before: Tally, removed: Tally) -> Tally:
    groups = {
        key: count
        for key, events in before.groups.items()
        if (count := events - removed.groups.get(key, 0)) > 0
    }
    uses = {
        number: count
        for number, used in before.uses.items()
        if (count := used - removed.uses.get(number, 0)) > 0
    }
    return Tally(before.events - removed.events, groups, groups, uses)
