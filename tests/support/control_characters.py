"""Texts with characters that a terminal or a browser interprets, hides or reorders."""

import unicodedata

from hypothesis import strategies as st

SEQUENCES = [
    "\x1b[2J\x1b]0;title\x07", "\x9b31m", "\x90q\x9c", "\x85", "\u202egpj.exe", "\u2066\u2069",
    "\u200b\u200d\ufeff", "\u2028\u2029", "\x00\x08\x7f", "\r\nfaked", "\U000e0041", "\u206a",
    "\u061c\u180e",
]  # fmt: skip
TEXTS = st.one_of(
    st.text(),
    st.lists(st.one_of(st.sampled_from(SEQUENCES), st.text(max_size=5)), max_size=6).map("".join),
)
INTERPRETED_CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def interpreted_characters(text: str) -> set[str]:
    """Return the characters of a text that are not displayed as themselves."""
    return {
        character for character in text if unicodedata.category(character) in INTERPRETED_CATEGORIES
    }
