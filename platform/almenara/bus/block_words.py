"""Which blocks may have matches: a full-text index with one row for each block.

A row has a token for each word, correlation id, name and severity of the events in a block. So the
blocks of a rare word, or of several conditions, are listed newest first without a look at any
other, however many there are. Tokens are letters and digits of ASCII; their first letter tells what
they are. A long one is cut: then a block may be read in vain, as it is where its words are in
different events.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Final

from almenara.bus.block_format import compress, decompress

MAX_TOKEN: Final = 128
"""Characters of a token."""


def word_token(word: str) -> str:
    """Return the token of a word (`almenara.bus.text_index.split_words`)."""
    (token,) = word_tokens((word,))
    return token


def word_tokens(words: Iterable[str]) -> list[str]:
    """Return the tokens of words."""
    return [f"w{word}"[:MAX_TOKEN] if word.isascii() else _hex_token("x", word) for word in words]


def correlation_token(text: str) -> str:
    """Return the token of a correlation id."""
    return _hex_token("k", text)


def name_token(number: int) -> str:
    """Return the token of the number of a name; a negative one is `UNNUMBERED`."""
    return f"n{number}" if number >= 0 else "nu"


def severity_token(level: int) -> str:
    """Return the token of a severity."""
    return f"s{level}"


def _hex_token(kind: str, text: str) -> str:
    return f"{kind}{text.encode('utf-8', 'surrogatepass').hex()}"[:MAX_TOKEN]


def encode_counts(counts: Mapping[str, int]) -> bytes:
    """Return the words that more than one event of a block has, each with their number."""
    common = sorted(word for word, events in counts.items() if events > 1)
    return compress(f" {' '.join(f'{word}={counts[word]}' for word in common)} ".encode())


def read_count(connection: sqlite3.Connection, block: int, word: str) -> int | None:
    """Return the number of events of a block that have a word, where its index has the word; None
    where that is unknown.

    Raises `DamagedBlockError`.
    """
    row = connection.execute(
        "SELECT counts FROM block_word_counts WHERE block = ?", (block,)
    ).fetchone()
    if row is None or not isinstance(row[0], bytes) or len(word_token(word)) == MAX_TOKEN:
        return None
    counts = decompress(row[0])
    mark = f" {word}=".encode()
    start = counts.find(mark)
    if start < 0:
        return 1
    start += len(mark)
    return int(counts[start : counts.index(b" ", start)])


def match_word(word: str, is_prefix: bool) -> str:
    """Return a part of a search: blocks with a word, or with one that starts so."""
    if not is_prefix:
        return match_any((word_token(word),))
    # A longer word may have letters beyond ASCII.
    tokens = dict.fromkeys((word_token(word), _hex_token("x", word)))
    return f"({' OR '.join(f'{token} *' for token in tokens)})"


def match_any(tokens: Iterable[str]) -> str:
    """Return a part of a search: blocks with any of some tokens."""
    return f"({' OR '.join(tokens)})"


def add_tokens(connection: sqlite3.Connection, block: int, tokens: Iterable[str]) -> None:
    """Add a block to the index."""
    connection.execute(
        "INSERT INTO block_words (rowid, tokens) VALUES (?, ?)", (block, " ".join(tokens))
    )


def remove_tokens(connection: sqlite3.Connection, block: int, tokens: Iterable[str]) -> None:
    """Remove a block, with the tokens that were added; a token that is left is not found."""
    connection.execute(
        "INSERT INTO block_words (block_words, rowid, tokens) VALUES ('delete', ?, ?)",
        (block, " ".join(tokens)),
    )
