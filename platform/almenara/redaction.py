"""Masks secrets before signals are stored: values of keys that name one, in data and in text."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from almenara.config import RedactionSettings
from almenara.patterns import compile_pattern
from almenara.signals import Event, Resource, Signal

# Numbers stay as they were written: a float would change `0.1000` and long fractions.
decode_exactly = msgspec.json.Decoder(float_hook=lambda text: msgspec.Raw(text.encode())).decode

MASK: Final = "***"
WORDS: Final = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])|[A-Z]")
MEASURES: Final = frozenset(("per", "to"))
"""Words in names of measurements, such as `time_to_first_token` and `cost_per_token`."""
MEASUREMENT: Final = re.compile(r"(?i)(?<![a-z0-9])(?:per|to)[_.-](?:[a-z0-9]+[_.-]){0,2}$")
"""Text before the last word of such a name."""
NUMBER: Final = re.compile(r"[+-]?\d+(?:\.\d+)?")
MAX_NAME: Final = 64
"""Characters of a name in text that are searched for the words of a measurement."""
MAX_DEPTH: Final = 200
"""Levels of nesting that are searched."""

IsExcluded = Callable[[str], bool]
"""Whether the value of a key is not masked, for a certain event."""


class Redactor:
    """Masks the secrets that `redaction.keys` names. Call it with a signal."""

    def __init__(self, settings: RedactionSettings) -> None:
        self._names = tuple(tuple(_words(key)) for key in settings.keys if _words(key))
        self._exclude = {
            " ".join(_words(name)): [
                compile_pattern(text) or re.compile(re.escape(text)) for text in texts
            ]
            for name, texts in settings.exclude.items()
        }
        joined = "|".join("[^a-z0-9]?".join(map(re.escape, name)) for name in self._names)
        self._hint = re.compile(joined.encode(), re.IGNORECASE) if joined else None
        words = {max(name, key=len).encode() for name in self._names}
        self._plain = tuple(
            word for word in words if not any(other in word for other in words if other != word)
        )
        # Possessive: giving back one space after the other would take quadratic time.
        scheme = r"(?:(?:bearer|basic)\s++)?"
        # Between quotes, a value can have spaces and any sign but that quote. JSON in a text of
        # JSON has a backslash before each of its own.
        self._in_text = re.compile(
            rf"(?i)((?:{joined})(?:\\*[\"'])?\s*[:=]\s*)"
            rf"(?:(\\+[\"']{scheme})[^\"'\\\n]++(?=\\)"
            rf"|(\"{scheme})(?:[^\"\\\n]|\\.)++(?=\")"
            rf"|('{scheme})(?:[^'\\\n]|\\.)++(?=')"
            rf"|((?:\\*[\"'])?{scheme})[^\s\"',;&}}]+)"
        )

    def names_secret(self, key: str) -> bool:
        """Whether the words of a key are, or end with, those of a configured name."""
        words = tuple(_words(key))
        return any(words[-len(name) :] == name for name in self._names)

    def __call__(self, signal: Signal) -> Signal:
        """Return a signal with its secrets masked; the same object where it has none."""
        if self._hint is None:
            return signal
        if isinstance(signal, Event):
            return self._mask_event(signal)
        return self.mask_resource(signal) if isinstance(signal, Resource) else signal

    def mask_resource(self, resource: Resource) -> Resource:
        """Return a resource with its secrets masked; the same object where it has none."""
        if self._hint is None:
            return resource
        changed: dict[str, Any] = {}
        if resource.state:
            state = self._mask(resource.state, lambda key: False, 0)
            if state is not resource.state:
                changed["state"] = state
        if self._may_hold_secret(resource.status.encode("utf-8", "replace")):
            changed["status"] = self._mask_text(resource.status)
        return msgspec.structs.replace(resource, **changed) if changed else resource

    def _may_hold_secret(self, text: bytes) -> bool:
        """Whether a text may contain a secret. For most texts this is the only work."""
        # Searching for plain words first takes a tenth of the time of the expression.
        low = text.lower()
        if b"\\u" in low:
            # JSON can write any letter as an escape.
            return True
        for word in self._plain:
            if word in low:
                return self._hint is not None and self._hint.search(text) is not None
        return False

    def _mask_event(self, event: Event) -> Event:
        changed: dict[str, Any] = {}
        is_excluded = self._exclusion(event)
        data = event.data
        if isinstance(data, msgspec.Raw):
            if self._may_hold_secret(bytes(data)):
                try:
                    read = decode_exactly(data)
                    masked = self._mask(read, is_excluded, 0)
                    if masked is not read:
                        changed["data"] = msgspec.Raw(msgspec.json.encode(masked))
                except (msgspec.MsgspecError, RecursionError):
                    # Data that is not JSON is refused where it is stored, with the reason.
                    pass
        elif data is not None:
            masked = self._mask(data, is_excluded, 0)
            if masked is not data:
                changed["data"] = masked
        if event.attributes:
            attributes = self._mask(event.attributes, is_excluded, 0)
            if attributes is not event.attributes:
                changed["attributes"] = attributes
        if event.problem and self._may_hold_secret(event.problem.encode("utf-8", "replace")):
            changed["problem"] = self._mask_text(event.problem)
        if event.raw is not None and self._may_hold_secret(event.raw):
            text = event.raw.decode("utf-8", "surrogateescape")
            masked_text = self._mask_text(text)
            if masked_text != text:
                changed["raw"] = masked_text.encode("utf-8", "surrogateescape")
        return msgspec.structs.replace(event, **changed) if changed else event

    def _exclusion(self, event: Event) -> IsExcluded:
        def is_excluded(key: str) -> bool:
            patterns = self._exclude.get(" ".join(_words(key)), ())
            return any(
                pattern.fullmatch(event.type) or pattern.fullmatch(event.subject)
                for pattern in patterns
            )

        return is_excluded

    def _mask(self, value: Any, is_excluded: IsExcluded, depth: int) -> Any:
        """Return a value with secrets masked; the same object where it contains none."""
        if depth > MAX_DEPTH:
            return value
        if isinstance(value, Mapping):
            result: dict[Any, Any] = {}
            has_changed = False
            for key, inner in value.items():
                if isinstance(key, str) and self.names_secret(key) and not is_excluded(key):
                    new = MASK if _is_maskable(key, inner) else inner
                else:
                    new = self._mask(inner, is_excluded, depth + 1)
                has_changed = has_changed or new is not inner
                result[key] = new
            return result if has_changed else value
        if isinstance(value, list | tuple):
            items = [self._mask(item, is_excluded, depth + 1) for item in value]
            same = all(new is old for new, old in zip(items, value, strict=True))
            return value if same else items
        if isinstance(value, str):
            text = self._mask_text(value)
            return value if text == value else text
        return value

    def mask_text(self, text: str) -> str:
        """Return a text with its secrets masked."""
        return text if self._hint is None else self._mask_text(text)

    def _mask_text(self, text: str) -> str:
        return self._in_text.sub(_mask_match, text)


def _mask_match(match: re.Match[str]) -> str:
    """The name of a secret and what stands before its value, with the mask in place of that."""
    text, start = match.string, match.start()
    if NUMBER.fullmatch(text, match.end(1), match.end()) and MEASUREMENT.search(
        text, max(start - MAX_NAME, 0), start
    ):
        return match[0]
    before = next(filter(None, match.groups()[1:]), "")
    return f"{match[1]}{before}{MASK}"


def _words(name: str) -> list[str]:
    """Split a name into words, however they are joined: `refreshToken`, `X-Auth-Token`."""
    return [word.lower() for word in WORDS.findall(name)]


def _is_maskable(key: str, value: Any) -> bool:
    """Whether a value has anything to hide. A number under the name of a measurement has not."""
    if isinstance(value, int | float | msgspec.Raw) and not isinstance(value, bool):
        return MEASURES.isdisjoint(_words(key))
    return value is not None and value != "" and not isinstance(value, bool) and value != MASK
