"""Searches sealed blocks: which of them may have matches, and which events of a block match.

A block is skipped by its ranges of sequence and time, and by what the index of blocks has of its
names, severities and words. Of one that is read, each column is decompressed only when a test needs
it, and a name is tested once for all the events that have it. The answers are those of
`Filter.matches` and `Scope.permits`.
"""

import contextlib
import itertools
import re
import sqlite3
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Literal

import msgspec

from almenara.bus.block_format import Block, DamagedBlockError
from almenara.bus.block_words import (
    correlation_token,
    match_any,
    match_word,
    name_token,
    read_count,
    severity_token,
)
from almenara.bus.blocks import read_block, read_severe
from almenara.bus.codec import RowDecoder
from almenara.bus.counts import UNNUMBERED
from almenara.bus.readers import check_deadline
from almenara.bus.text_index import split_words
from almenara.history.block_cache import BlockCache
from almenara.history.filter import Filter, parse_phrases
from almenara.history.planner import clamp
from almenara.history.stored_names import find_names, read_pairs
from almenara.history.text_finder import TextFinder
from almenara.patterns import compile_pattern
from almenara.scope import LABELS, NAMESPACE, Scope, compile_scope, parse_labels
from almenara.signals import Severity
from almenara.visibility import SignalNames

MAX_NAMES: Final = 50
"""Names of one kind that blocks are searched by; more of them are in nearly every block."""
ROWS_AT_ONCE: Final = 25
NAMED: Final = ("source", "origin", "type", "subject")
Order = Literal["ASC", "DESC"]

decode_attributes = msgspec.json.Decoder(dict[str, str]).decode


class Access:
    """How a query reads blocks."""

    def __init__(self, cache: BlockCache) -> None:
        self.cache = cache
        self.has_read_blocks = False


class BlockMatch(msgspec.Struct):
    """What is known of a block before it is read."""

    last: int
    """Sequence of the last event."""
    first_sequence: int
    events: int
    first_time: int
    last_time: int


class SealedSearch:
    """The events in blocks that a filter and a scope let through."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        decoder: RowDecoder,
        chosen: Filter,
        scope: Scope,
        access: Access,
    ) -> None:
        self._connection, self._decoder, self._access = connection, decoder, access
        self._chosen, self._scope = chosen, scope
        self._phrases = parse_phrases(chosen.text) if chosen.text is not None else []

    def rows(
        self, order: Order, after: int | None = None, before: int | None = None
    ) -> Iterator[tuple[Any, ...]]:
        """Yield matching events as rows of `EVENT_COLUMNS`, between two sequences."""
        for block, places in self._matches(order, after, before):
            # Rows are made as they are needed: the page may be full after a few.
            while rows := block.rows(itertools.islice(places, ROWS_AT_ONCE)):
                yield from rows

    def count(
        self, limit: int | None = None, *, after: int | None = None, before: int | None = None
    ) -> int:
        """Count the matching events between two sequences, up to a limit."""
        number = 0
        word = self._single_word()
        for block in self._find_blocks("DESC", after, before):
            counted = self._read_count(block, word, after, before) if word else None
            if counted is None:
                for _, places in self._search(block, "DESC", after, before):
                    number += sum(1 for _ in places)
            else:
                number += counted
            if limit is not None and number >= limit:
                return limit
        return number

    def _single_word(self) -> str | None:
        """Return the word of a search that tests for one, and for nothing but the time besides."""
        chosen = self._chosen
        others = (chosen.severity, chosen.correlation, *(getattr(chosen, name) for name in NAMED))
        if (
            len(self._phrases) != 1
            or not self._scope.is_full
            or any(value is not None for value in others)
        ):
            return None
        ((phrase, is_prefix),) = self._phrases
        words = split_words(phrase)
        return words[0] if len(words) == 1 and not is_prefix else None

    def _read_count(
        self, block: BlockMatch, word: str, after: int | None, before: int | None
    ) -> int | None:
        """Return how many events of a block have a word; None where its events must be read."""
        chosen = self._chosen
        is_whole = (
            (after is None or block.first_sequence > after)
            and (before is None or block.last < before)
            and (chosen.since is None or block.first_time >= chosen.since)
            and (chosen.until is None or block.last_time < chosen.until)
        )
        if not is_whole:
            return None
        check_deadline()
        try:
            return read_count(self._connection, block.last, word)
        except DamagedBlockError:
            return None

    def buckets(self, width: int, before: int | None = None) -> list[tuple[int, int, int]]:
        """Return the start, the events and the failures of each bucket of time with matches,
        before a sequence."""
        events: Counter[int] = Counter()
        failures: Counter[int] = Counter()
        for block, places in self._matches("DESC", None, before):
            times, levels = block.numbers("time"), block.numbers("severity")
            for place in places:
                start = times[place] // width * width
                events[start] += 1
                failures[start] += levels[place] >= Severity.ERROR
        return [(start, count, failures[start]) for start, count in events.items()]

    def _matches(
        self, order: Order, after: int | None = None, before: int | None = None
    ) -> Iterator[tuple[Block, Iterator[int]]]:
        for match in self._find_blocks(order, after, before):
            yield from self._search(match, order, after, before)

    def _search(
        self, match: BlockMatch, order: Order, after: int | None, before: int | None
    ) -> Iterator[tuple[Block, Iterator[int]]]:
        """Yield a block and the places of its matches, unless it is damaged."""
        check_deadline()
        self._access.has_read_blocks = True
        try:
            block = self._read(match)
            yield (
                block,
                _find_places(block, self._chosen, self._phrases, self._scope, order, after, before),
            )
        except DamagedBlockError as error:
            self._decoder.skip(match.last, error, match.events)

    def _read(self, match: BlockMatch) -> Block:
        """Return the events of a block that may match, or all of them."""
        connection, cache, last = self._connection, self._access.cache, match.last
        # A block changes only where a rule removes some of its events.
        key = last, match.events
        if self._chosen.severity is not None:
            level = int(self._chosen.severity)
            with contextlib.suppress(DamagedBlockError):
                severe = cache.get((*key, level), lambda: read_severe(connection, last, level))
                if severe is not None:
                    return severe
        return cache.get(key, lambda: read_block(connection, last))

    def _find_blocks(
        self, order: Order, after: int | None, before: int | None
    ) -> Iterator[BlockMatch]:
        """Yield the blocks that may have matches."""
        chosen = self._chosen
        if before is not None:
            # Blocks after the one with that sequence need no look.
            row = self._connection.execute(
                "SELECT last_sequence FROM blocks WHERE last_sequence >= ?"
                " ORDER BY last_sequence LIMIT 1",
                (clamp(before - 1),),
            ).fetchone()
            through = None if row is None else row[0]
        else:
            through = None
        search = " AND ".join(self._list_conditions())
        tables, key = "blocks b", "b.last_sequence"
        conditions: list[str] = []
        parameters: list[Any] = []
        if search:
            # The index is read in order of its rows, as long as bounds and order are of its column.
            tables, key = (
                "block_words w CROSS JOIN blocks b ON b.last_sequence = w.rowid",
                "w.rowid",
            )
            conditions.append("w.block_words MATCH ?")
            parameters.append(search)
        for condition, bound in (
            (f"{key} > ?", after),
            (f"{key} <= ?", through),
            ("b.last_time >= ?", chosen.since),
            ("b.first_time < ?", chosen.until),
        ):
            if bound is not None:
                conditions.append(condition)
                parameters.append(clamp(int(bound)))
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        rows = self._connection.execute(
            "SELECT b.last_sequence, b.first_sequence, b.events, b.first_time, b.last_time"  # nosec B608 # constant fragments, bound values
            f" FROM {tables}{where} ORDER BY {key} {order}",
            parameters,
        )
        yield from itertools.starmap(BlockMatch, rows)

    def _list_conditions(self) -> Iterator[str]:
        """Yield what the index must have of a block, in the language of FTS5."""
        chosen = self._chosen
        for phrase, is_prefix in self._phrases:
            words = split_words(phrase)
            for place, word in enumerate(words, 1):
                yield match_word(word, is_prefix and place == len(words))
        if chosen.subject is not None:
            # The parts without a star stand between separators, so their words are whole.
            parts = re.split(r"[./]", chosen.subject)
            plain = " ".join(part for part in parts if not set("*>").intersection(part))
            for word in split_words(plain):
                yield match_word(word, is_prefix=False)
        if chosen.correlation is not None:
            yield match_any((correlation_token(chosen.correlation),))
        if chosen.severity is not None:
            yield match_any(severity_token(level) for level in Severity if level >= chosen.severity)
        for numbers in self._list_names():
            if len(numbers) <= MAX_NAMES:
                yield match_any(map(name_token, numbers))

    def _list_names(self) -> Iterator[list[int]]:
        """Yield lists of numbers, of each of which a block with matches has at least one."""
        for name in ("source", "origin", "type"):
            if (text := getattr(self._chosen, name)) is not None:
                stored = find_names(self._connection, [text])
                yield [*stored.numbers, UNNUMBERED]
        if not self._scope.is_full:
            pairs = read_pairs(self._connection, self._scope)
            if pairs is not None:
                yield [*{origin for origin, _ in pairs.visible}, UNNUMBERED]


def _find_places(
    block: Block,
    chosen: Filter,
    phrases: Sequence[tuple[str, bool]],
    scope: Scope,
    order: Order,
    after: int | None,
    before: int | None,
) -> Iterator[int]:
    """Yield the places of matching events in a block."""
    places: Sequence[int] = range(block.events)
    if after is not None or before is not None:
        sequences = block.numbers("sequence")
        first = 0 if after is None else bisect_right(sequences, after)
        end = len(sequences) if before is None else bisect_right(sequences, before - 1)
        places = range(first, end)
    for name, lower, upper in (
        ("severity", chosen.severity, None),
        ("time", chosen.since, chosen.until),
    ):
        if lower is not None or upper is not None:
            values = block.numbers(name)
            places = [
                place
                for place in places
                if (lower is None or values[place] >= lower)
                and (upper is None or values[place] < upper)
            ]
    for name in NAMED:
        if (text := getattr(chosen, name)) is not None:
            places = _select_names(block, name, _name_test(text), places)
    if chosen.correlation is not None:
        correlation = chosen.correlation
        places = _select_names(block, "correlation", lambda text: text == correlation, places)
    if not scope.is_full and places:
        places = _select_visible(block, scope, places)
    ordered: Iterator[int] = iter(places if order == "ASC" else reversed(places))
    if phrases and places:
        return TextFinder(block, phrases).select(ordered)
    return ordered


def _select_names(
    block: Block, name: str, test: Callable[[str | None], bool], places: Sequence[int]
) -> Sequence[int]:
    texts, codes = block.names(name)
    results = [test(text) for text in texts]
    if all(results):
        return places
    return [place for place in places if results[codes[place]]] if any(results) else ()


def _name_test(text: str) -> Callable[[str | None], bool]:
    expression = compile_pattern(text)
    if expression is None:
        return lambda name: name == text
    return lambda name: name is not None and expression.fullmatch(name) is not None


def _select_visible(block: Block, scope: Scope, places: Sequence[int]) -> Sequence[int]:
    permits = compile_scope(scope).permits
    columns = [block.names(name) for name in ("origin", "type", "attributes")]
    known: dict[tuple[int, ...], bool] = {}

    def is_visible(place: int) -> bool:
        key = tuple(codes[place] for _, codes in columns)
        if key not in known:
            origin, kind, stored = (
                texts[code] for (texts, _), code in zip(columns, key, strict=True)
            )
            attributes = decode_attributes(stored) if stored else {}
            names = SignalNames(origin or "", kind, attributes.get(NAMESPACE, ""))
            known[key] = permits(names, lambda: parse_labels(attributes.get(LABELS, "")))
        return known[key]

    return [place for place in places if is_visible(place)]
