"""Sealed blocks: older events, compressed, in place of their rows and of the entries in indexes.

A block holds events that followed one another in the log; it is a row of the table `blocks`. Events
up to `position.sealed_through` are in blocks; later ones are rows (`almenara.bus.sealing`).

Beside the compressed content (`almenara.bus.block_format`), the database has what queries and
retention need without it: ranges of sequence and time, the highest severity, the names, an index of
the words, and what the events were counted as.
"""

import sqlite3
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Final

import msgspec

from almenara.bus.block_format import (
    Block,
    DamagedBlockError,
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
    name_token,
    remove_tokens,
    severity_token,
    word_token,
)
from almenara.bus.codec import RowDecoder
from almenara.bus.counts import UNNUMBERED, WIDTHS, Group, add_groups
from almenara.bus.names import count_pairs
from almenara.bus.removal import Tally, release
from almenara.bus.text_index import collect_words, searched_text
from almenara.signals import Event

SUMMARY: Final = 6
"""Place of the summary in a row of `blocks`."""
EVENTS_IN_STEP: Final = 250
"""Events whose words are collected in one step."""

Sequenced = tuple[int, Event]


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

    events: Sequence[Sequenced]
    content: bytes
    tokens: set[str]
    """What queries find it by, besides its names."""


def encode(events: Sequence[Sequenced]) -> Generator[None, None, EncodedBlock]:
    """Return the block of events, in order of their sequences; yield after each short step."""
    columns = yield from encode_columns(events)
    tokens = yield from _collect_tokens(events)
    return EncodedBlock(events, join_columns(len(events), columns), tokens)


def _collect_tokens(events: Sequence[Sequenced]) -> Generator[None, None, set[str]]:
    words: set[str] = set()
    for start in range(0, len(events), EVENTS_IN_STEP):
        part = events[start : start + EVENTS_IN_STEP]
        texts = dict.fromkeys(event.subject for _, event in part)
        texts |= dict.fromkeys(searched_text(bytes(event.data).decode()) for _, event in part)
        words |= collect_words(texts)
        yield
    tokens = set(map(word_token, words))
    tokens.update(correlation_token(event.correlation) for _, event in events if event.correlation)
    tokens.update(map(severity_token, {int(event.severity) for _, event in events}))
    return tokens


def insert_block(
    connection: sqlite3.Connection,
    block: EncodedBlock,
    groups: Mapping[Group, int],
    uses: Mapping[int, int],
) -> None:
    """Store a block, with what its events were counted as."""
    last = block.events[-1][0]
    connection.execute(
        "INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?, ?)",
        (last, *_describe(block.events), _encode_summary(groups, uses)),
    )
    connection.execute("INSERT INTO block_contents VALUES (?, ?)", (last, block.content))
    _insert_filters(connection, last, block)


def _describe(events: Sequence[Sequenced]) -> tuple[int, int, int, int, int]:
    """Return the first sequence, the number, the range of times and the highest severity."""
    times = [event.time for _, event in events]
    severity = max(int(event.severity) for _, event in events)
    return events[0][0], len(events), min(times), max(times), severity


def _encode_summary(groups: Mapping[Group, int], uses: Mapping[int, int]) -> bytes:
    summary = Summary(sorted(groups.items()), dict(sorted(uses.items())))
    return compress(msgspec.json.encode(summary))


def _insert_filters(connection: sqlite3.Connection, last: int, block: EncodedBlock) -> None:
    names = sorted(_list_names(connection, block.events))
    connection.executemany(
        "INSERT INTO block_names VALUES (?, ?)", [(number, last) for number in names]
    )
    add_tokens(connection, last, block.tokens.union(map(name_token, names)))


def _list_names(connection: sqlite3.Connection, events: Sequence[Sequenced]) -> set[int]:
    """Return the numbers of the sources, origins and types; `UNNUMBERED` for those without."""
    texts = {text for _, event in events for text in (event.source, event.origin, event.type)}
    return {_find_number(connection, text) for text in texts}


def _find_number(connection: sqlite3.Connection, text: str) -> int:
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
    tokens: set[str] = set()
    try:
        tally = read_summary(connection, last).tally()
        tokens = finish(_collect_tokens(_read_events(connection, last)))
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


def _delete_block(connection: sqlite3.Connection, last: int, tokens: set[str]) -> None:
    if tokens:
        remove_tokens(connection, last, tokens.union(_name_tokens(connection, last)))
    connection.execute("DELETE FROM blocks WHERE last_sequence = ?", (last,))
    connection.execute("DELETE FROM block_contents WHERE block = ?", (last,))
    connection.execute("DELETE FROM block_names WHERE block = ?", (last,))


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
    events = _read_events(connection, last)
    removed = [entry for entry in events if is_removed(entry[1])]
    if not removed:
        return 0
    before = read_summary(connection, last).tally()
    tally = _tally_sealed(connection, removed, before)
    remaining = [entry for entry in events if not is_removed(entry[1])]
    content = encode_block(remaining) if remaining else b""
    tokens = set() if remaining else finish(_collect_tokens(events))
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
        else:
            _delete_block(connection, last, tokens)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return len(removed)


def index_blocks(connection: sqlite3.Connection) -> None:
    """Index all blocks of a database of schema 6, which had another index of words."""
    for (last,) in connection.execute("SELECT last_sequence FROM blocks").fetchall():
        index_block(connection, last)


def index_block(connection: sqlite3.Connection, last: int) -> None:
    """Index a block by its content and its names; of a damaged one by its names alone."""
    try:
        tokens = finish(_collect_tokens(_read_events(connection, last)))
    except DamagedBlockError:
        tokens = set()
    add_tokens(connection, last, tokens.union(_name_tokens(connection, last)))


def _read_events(connection: sqlite3.Connection, last: int) -> list[Sequenced]:
    block = read_block(connection, last)
    records = RowDecoder(is_quiet=True).events(connection, block.rows(range(block.events)))
    return [(record.sequence, record.signal) for record in records]  # type: ignore[misc]


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
    _insert_filters(writing, last, finish(encode(_read_events(reading, last))))
    add_groups(writing, dict(summary.groups))
    for (_, origin, kind, _, _), count in summary.groups:
        if UNNUMBERED not in (origin, kind):
            count_pairs(writing, [(origin, kind)] * count)


def _tally_sealed(
    connection: sqlite3.Connection, events: Sequence[Sequenced], before: Tally
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
