"""Types of events that are made from addresses, such as the subject of a message.

Addresses have ids in them (`agent.results.task-8f3a`), types must not: the types are a short list
that people choose from, that rules name and that storage counts. So each part of an address that
has an id becomes `*`. The rule is a function of the address alone, so that every replica and every
repeat gives the same type.
"""

import functools
import re
from typing import Final

ID: Final = "*"
"""Takes the place of an id, as in a pattern of addresses."""
LONGEST_WORD: Final = 64
LONGEST_NUMBERED_WORD: Final = 19
"""Shorter than the ids with upper and lower case that are common: NUID 22, nanoid 21, KSUID 27."""
SHORT: Final = 3
WORDS: Final = re.compile(r"[^\W_]+")
HEX: Final = re.compile(r"[0-9a-f]{7,}", re.IGNORECASE)
VERSION: Final = re.compile(r"v\d{1,3}(?:(?:alpha|beta|rc)\d{0,2})?", re.IGNORECASE)
NUMBERED_WORD: Final = re.compile(r"[^\W\d_]+\d{1,2}(?:[A-Z][a-z]+)*")
"""Letters with a number of one or two digits, at the end or before words in camel case: `http2`,
`S3BucketCreated`."""
WORDS_WITH_DIGITS: Final = frozenset((
    "a11y", "base64", "gpt4o", "h264", "h265", "i18n", "l10n", "log4j", "neo4j", "sha256", "sha512",
))  # fmt: skip
MIN_RANDOM_LETTERS: Final = 12
ODD_CASE: Final = re.compile(r"(?<=[A-Z])[a-z](?=[A-Z])|[A-Z]{2,}")
MAX_ODD_CASES: Final = 2
"""Acronyms in camel case, and words such as `IoT`."""


def type_from_address(address: str) -> str:
    """Return an address with `*` in place of each of its parts, between dots, that has an id.

    A part has an id if one of its words, between `-`, `_` and the like, is a number, or looks
    random: 7 or more hexadecimal digits, letters mixed with digits, or 12 and more letters with
    upper and lower case in no order. Versions (`v1`, `v2beta1`), words with a number of one or two
    digits (`http2`, `node7`), mixtures of up to three characters (`s3`, `k8s`) and names such as
    `neo4j` are words.
    """
    if address.isalpha():
        return address
    return ".".join(
        ID if len(part) > LONGEST_WORD or _has_id(part) else part for part in address.split(".")
    )


@functools.lru_cache(maxsize=10_000)
def _has_id(part: str) -> bool:
    return any(_is_id(word) for word in WORDS.findall(part))


def _is_id(word: str) -> bool:
    if word.isdecimal() or HEX.fullmatch(word):
        return True
    if word.isalpha() or NUMBERED_WORD.fullmatch(word):
        return _is_random(word)
    return not (len(word) <= SHORT or VERSION.fullmatch(word) or word.lower() in WORDS_WITH_DIGITS)


def _is_random(word: str) -> bool:
    if not word.isalpha() and len(word) > LONGEST_NUMBERED_WORD:
        return True
    is_long = len(word) >= MIN_RANDOM_LETTERS
    return is_long and not word.isupper() and len(ODD_CASE.findall(word)) > MAX_ODD_CASES
