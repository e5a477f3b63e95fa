"""Finds phrases in the events of a sealed block, and splits few of their payloads into words.

A payload without letters beyond ASCII and without escapes has a word exactly where its letters
stand between other characters. So the payloads of a block are searched in one piece, in C; only
what that leaves open is split into words, as a live filter does.
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

from almenara.bus.block_format import Block
from almenara.bus.text_index import MAX_TEXT, searched_text, split_words

LETTERS: Final = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789")


class _Phrase:
    """A phrase, with what is known of where it stands in a block."""

    def __init__(self, text: str, is_prefix: bool) -> None:
        self.words, self.is_prefix = split_words(text), is_prefix
        self.spaced = f" {' '.join(self.words)}" + ("" if is_prefix else " ")
        letters = r"[^a-z0-9]+".join(self.words)
        end = "" if is_prefix else r"(?![a-z0-9])"
        self.pattern = re.compile(f"(?<![a-z0-9]){letters}{end}".encode())
        """Matches payloads of ASCII letters without escapes."""
        self.in_subject: list[bool] = []
        """By the place of the subject among the distinct ones of the block."""
        self.candidates: set[int] = set()
        """Places whose payload may have the phrase; or has it, if it is a single word."""


class TextFinder:
    """Tests events of one block for phrases that must all occur in the subject or the payload."""

    def __init__(self, block: Block, phrases: Sequence[tuple[str, bool]]) -> None:
        self._piece, self._starts, self._lengths = block.texts("data")
        subjects, self._subject_codes = block.names("subject")
        first = self._starts[0]
        is_plain = self._piece.isascii() or self._piece[first:].isascii()
        has_long = max(self._lengths) > MAX_TEXT
        self._split = (
            set()
            if is_plain and not has_long and b"\\" not in self._piece[first:]
            else {place for place in range(block.events) if not self._is_plain(place)}
        )
        """Places whose payload must be split into words."""
        self._lower = self._piece.lower()
        self._phrases = [_Phrase(*phrase) for phrase in phrases]
        spaced = [_space(text or "") for text in subjects]
        for phrase in self._phrases:
            phrase.in_subject = [phrase.spaced in text for text in spaced]
            phrase.candidates = self._find(phrase) | self._split

    def matches(self, place: int) -> bool:
        """Whether an event has all of the phrases."""
        subject = self._subject_codes[place]
        spaced: str | None = None
        for phrase in self._phrases:
            if phrase.in_subject[subject]:
                continue
            if place not in phrase.candidates:
                return False
            if place in self._split:
                if spaced is None:
                    spaced = _space(searched_text(self._data(place).decode("utf-8", "replace")))
                if phrase.spaced not in spaced:
                    return False
            elif len(phrase.words) > 1 and not phrase.pattern.search(self._data(place).lower()):
                return False
        return True

    def _data(self, place: int) -> bytes:
        start = self._starts[place]
        return self._piece[start : start + max(self._lengths[place], 0)]

    def _is_plain(self, place: int) -> bool:
        data = self._data(place)
        return data.isascii() and b"\\" not in data and len(data) <= MAX_TEXT

    def _find(self, phrase: _Phrase) -> set[int]:
        """Return the places whose payload has the word of a phrase that is rarest in the block."""
        if not all(word.isascii() for word in phrase.words):
            return set()
        lower, starts = self._lower, self._starts
        needles = [word.encode() for word in phrase.words]
        rarest = min(range(len(needles)), key=lambda index: lower.count(needles[index]))
        needle = needles[rarest]
        is_prefix = phrase.is_prefix and rarest == len(needles) - 1
        places: set[int] = set()
        position = lower.find(needle, starts[0])
        while position >= 0:
            place = bisect_right(starts, position) - 1
            start, end = starts[place], starts[place] + self._lengths[place]
            after = position + len(needle)
            if (
                after <= end
                and (position == start or lower[position - 1] not in LETTERS)
                and (is_prefix or after == end or lower[after] not in LETTERS)
            ):
                places.add(place)
                position = lower.find(needle, end)
            else:
                position = lower.find(needle, position + 1)
        return places


def _space(text: str) -> str:
    return f" {' '.join(split_words(text))} "
