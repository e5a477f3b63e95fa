"""What the full-text index holds of an event's data: JSON text with its escapes decoded.

The index and live filters split this text into words, so that they find the same events. JSON
without escapes needs no decoding: quotes, braces and commas separate words as spaces do. Letters of
scripts without spaces between words (Chinese, Japanese, Thai and others) are words of their own, so
that a search finds any part of a sentence, as a phrase of letters.
"""

import itertools
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Final

MAX_TEXT: Final = 256 * 1024
"""Characters of an event's data that are searched; the rest of a longer payload is stored only."""

_TOKEN: Final = re.compile(r"[^\W_]+", re.UNICODE)
_SPACED: Final = bytes(
    ord(letter.lower()) if letter.isascii() and letter.isalnum() else ord(" ")
    for letter in map(chr, range(256))
)
"""Lower-case letters and digits of ASCII, and a space for every other byte."""
_SEPARATOR: Final = "\0"
_SPACED_EVENTS: Final = _SEPARATOR.encode() + _SPACED[1:]
"""The same, with the separator between events."""
_UNSPACED: Final = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3031-\u3035"
    "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # Japanese syllables
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"  # Chinese characters
)
_ACCENTS: Final = re.compile("[\u0300-\u036f]+")
_ESCAPES: Final = re.compile(r"(?:\\u[0-9a-fA-F]{4})+|\\.", re.DOTALL)
_CONTROL: Final = {r"\b": " ", r"\f": " ", r"\n": " ", r"\r": " ", r"\t": " "}

SEARCHED_SUBJECT: Final = (
    "CASE WHEN length(subject) = length(CAST(subject AS BLOB)) THEN subject"
    " ELSE space_letters(subject) END"
)
SEARCHED_DATA: Final = (
    rf"CASE WHEN instr(data, '\') = 0 AND length(CAST(data AS BLOB)) <= {MAX_TEXT}"
    " AND length(data) = length(CAST(data AS BLOB)) THEN data ELSE searched_text(data) END"
)
"""`searched_text` in SQL; Python is called only for long data, and data with escapes or letters
beyond ASCII."""
SEARCHED_DATA_BEFORE_8: Final = (
    rf"CASE WHEN instr(data, '\') = 0 AND length(data) <= {MAX_TEXT} THEN data"
    " ELSE decode_text(data) END"
)
SEARCHED_DATA_BEFORE_4: Final = r"replace(replace(data, '\n', '  '), '\t', '  ')"
"""The same in the schemas before version 4. A row must leave the index as it was entered."""


def searched_text(data: str) -> str:
    """Return the text of JSON that is searched."""
    return space_letters(decode_text(data))


def decode_text(data: str) -> str:
    """Return JSON without its escapes, up to the length that is searched."""
    text = data[:MAX_TEXT]
    return _ESCAPES.sub(_decode, text) if "\\" in text else text


def space_letters(text: str) -> str:
    """Put spaces around each letter of a script that has none between words."""
    return text if text.isascii() else _UNSPACED.sub(r" \g<0> ", text)


def _decode(match: re.Match[str]) -> str:
    escape = match[0]
    if escape == r"\u":
        # The text was cut within an escape.
        return " "
    if escape[1] != "u":
        return _CONTROL.get(escape, escape[1])
    # A pair of surrogates is one letter; a single one is not a letter and is dropped.
    return str(json.loads(f'"{escape}"')).encode("utf-8", "ignore").decode()


def split_words(text: str) -> list[str]:
    """Return the words of a text as the index stores them: in lower case, without accents."""
    if not text.isascii():
        bare = _ACCENTS.sub("", unicodedata.normalize("NFD", text))
        text = space_letters(unicodedata.normalize("NFC", bare))
    return _TOKEN.findall(text.lower())


def count_words(counts: Counter[str], events: Sequence[tuple[str, str]]) -> None:
    """Add the number of events, given as subject and data, that have each word."""
    texts = [f"{subject} {data}" for subject, data in events]
    if not _is_plain(_SEPARATOR.join(texts), len(texts) - 1):
        rare = [event for event, text in zip(events, texts, strict=True) if not _is_plain(text, 0)]
        texts = [text for text in texts if _is_plain(text, 0)]
        words = itertools.starmap(_event_words, rare)
        counts.update(itertools.chain.from_iterable(map(set, words)))
    # Each call is for all of the events, which takes two thirds of the time.
    joined = _SEPARATOR.join(texts).encode().translate(_SPACED_EVENTS).decode()
    counts.update(itertools.chain.from_iterable(map(set, map(str.split, joined.split(_SEPARATOR)))))


def _is_plain(text: str, separators: int) -> bool:
    """Return whether a text needs no decoding and has so many separators."""
    return (
        text.isascii()
        and "\\" not in text
        and len(text) <= MAX_TEXT
        and text.count(_SEPARATOR) == separators
    )


def _event_words(subject: str, data: str) -> list[str]:
    if "\\" in data or not data.isascii() or len(data) > MAX_TEXT:
        data = searched_text(data)
    text = f"{subject} {data}"
    if not text.isascii():
        return split_words(text)
    # A third of the time of the expression.
    return text.encode().translate(_SPACED).decode().split()
