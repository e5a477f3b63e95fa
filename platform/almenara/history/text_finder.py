"""Finds phrases in the events of a sealed block, and splits few of their payloads into words.

A payload without letters beyond ASCII and without escapes has a word exactly where its letters
stand between other characters. So the payloads of a block are searched in one piece, in C; only
what that leaves open is split into words, as a live filter does.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from almenara.bus.block_format import Block
from almenara.bus.text_index import MAX_TEXT, searched_text, split_words

LETTER: Final = re.compile(b"[a-z0-9]")
NOT_ASCII: Final = re.compile(rb"[\x80-\xff]+")

COMMON_SHARE: Final = 8
"""A word is common where it occurs more often than in one of so many events."""


class _Phrase:
    """A phrase, with what is known of where it stands in a block."""

    def __init__(self, text: str, is_prefix: bool) -> None:
        self.words, self.is_prefix = split_words(text), is_prefix
        self.spaced = f" {' '.join(self.words)}" + ("" if is_prefix else " ")
        first, *others = self.words or [""]
        letters = r"[^a-z0-9]+".join((_start_of_word(first), *others))
        end = "" if is_prefix else r"(?![a-z0-9])"
        self.pattern = re.compile(f"{letters}{end}".encode())
        """Matches payloads of ASCII letters without escapes."""
        self.in_subject: list[bool] = []
        """By the place of the subject among the distinct ones of the block."""
        self.candidates: set[int] | None = None
        """Places whose payload may have the phrase, or has it, if it is a single word; None where
        it is so common that each is tested."""


class TextFinder:
    """Tests events of one block for phrases that must all occur in the subject or the payload."""

    def __init__(self, block: Block, phrases: Sequence[tuple[str, bool]]) -> None:
        piece, starts, self._lengths = block.texts("data")
        subjects, self._subject_codes = block.names("subject")
        self._piece = piece[starts[0] :]
        self._starts = [start - starts[0] for start in starts]
        self._lower = self._piece.lower()
        self._split: set[int] = block.derive("split", lambda _: self._list_split())
        """Places whose payload must be split into words."""
        self._phrases = [_Phrase(*phrase) for phrase in phrases]
        spaced: list[str] = block.derive(
            "spaced", lambda _: [_space(text or "") for text in subjects]
        )
        for phrase in self._phrases:
            phrase.in_subject = [phrase.spaced in text for text in spaced]
            places = self._find(phrase)
            phrase.candidates = None if places is None else places | self._split

    def _list_split(self) -> set[int]:
        split: set[int] = set()
        piece, starts = self._piece, self._starts
        position = piece.find(b"\\")
        while position >= 0:
            place = bisect_right(starts, position) - 1
            split.add(place)
            position = piece.find(b"\\", starts[place] + self._lengths[place])
        if not piece.isascii():
            split.update(
                bisect_right(starts, match.start()) - 1 for match in NOT_ASCII.finditer(piece)
            )
        if max(self._lengths) > MAX_TEXT:
            split.update(place for place, size in enumerate(self._lengths) if size > MAX_TEXT)
        firsts = bytes(map((self._lower + b" ").__getitem__, starts))
        for match in LETTER.finditer(firsts):
            # A number may follow another: their digits are not one word.
            split.update((max(match.start() - 1, 0), match.start()))
        return split

    def select(self, places: Iterable[int]) -> Iterator[int]:
        """Yield those of some events that have all of the phrases."""
        possible: set[int] | None = None
        for phrase in self._phrases:
            if phrase.candidates is not None:
                listed = self._add_subjects(phrase, phrase.candidates)
                possible = listed if possible is None else possible & listed
        return (
            place
            for place in places
            if (possible is None or place in possible) and self._matches(place)
        )

    def _add_subjects(self, phrase: _Phrase, candidates: set[int]) -> set[int]:
        if not any(phrase.in_subject):
            return candidates
        return candidates.union(
            place for place, code in enumerate(self._subject_codes) if phrase.in_subject[code]
        )

    def _matches(self, place: int) -> bool:
        subject = self._subject_codes[place]
        spaced: str | None = None
        for phrase in self._phrases:
            if phrase.in_subject[subject]:
                continue
            is_untested = phrase.candidates is None or len(phrase.words) > 1
            if phrase.candidates is not None and place not in phrase.candidates:
                return False
            if place in self._split:
                if spaced is None:
                    start = self._starts[place]
                    data = self._piece[start : start + max(self._lengths[place], 0)]
                    spaced = _space(searched_text(data.decode("utf-8", "replace")))
                if phrase.spaced not in spaced:
                    return False
            elif is_untested:
                start = self._starts[place]
                if not phrase.pattern.search(self._lower, start, start + self._lengths[place]):
                    return False
        return True

    def _find(self, phrase: _Phrase) -> set[int] | None:
        """Return the places whose payload has the word of a phrase that is rarest in the block;
        None where that is common."""
        if not all(word.isascii() for word in phrase.words):
            return set()
        needles = [word.encode() for word in phrase.words]
        occurrences = list(map(self._lower.count, needles))
        rarest = occurrences.index(min(occurrences))
        if occurrences[rarest] * COMMON_SHARE > len(self._starts):
            # A page is full after a few of the events; the others need no test then.
            return None
        needle = needles[rarest]
        end = b"" if phrase.is_prefix and rarest == len(needles) - 1 else b"(?![a-z0-9])"
        word = re.compile(_start_of_word(needle.decode()).encode() + end)
        starts = self._starts
        return {bisect_right(starts, match.start()) - 1 for match in word.finditer(self._lower)}


def _start_of_word(word: str) -> str:
    """Return an expression of letters with which a word starts."""
    # The letters come first, since those are searched fastest.
    return f"{word}(?<![a-z0-9]{word})"


def _space(text: str) -> str:
    return f" {' '.join(split_words(text))} "
