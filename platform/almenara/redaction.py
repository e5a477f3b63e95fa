"""What must not be stored is masked: values of keys that name a secret, before the bus has them."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from almenara.config import RedactionSettings
from almenara.patterns import compile_pattern
from almenara.signals import Event, Resource, Signal

MASK: Final = "***"
WORDS: Final = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])|[A-Z]")
DEEPEST: Final = 200

Spared = Callable[[str], bool]


class Redactor:
    """Masks what the configuration names."""

    def __init__(self, settings: RedactionSettings) -> None:
        self._names = tuple(tuple(_words(it)) for it in settings.keys if _words(it))
        self._spare = {
            " ".join(_words(name)): [
                compile_pattern(it) or re.compile(re.escape(it)) for it in texts
            ]
            for name, texts in settings.exclude.items()
        }
        joined = "|".join("[^a-z0-9]?".join(map(re.escape, it)) for it in self._names)
        self._hint = re.compile(joined.encode(), re.IGNORECASE) if joined else None
        words = {max(it, key=len).encode() for it in self._names}
        self._plain = tuple(
            it for it in words if not any(other in it for other in words if other != it)
        )
        self._in_text = re.compile(
            rf"(?i)((?:{joined})[\"']?\s*[:=]\s*[\"']?(?:(?:bearer|basic)\s+)?)([^\s\"',;&}}]+)"
        )

    def names_secret(self, key: str) -> bool:
        """Whether a key names a secret: one of the configured, alone or as its last words."""
        words = tuple(_words(key))
        return any(words[-len(it) :] == it for it in self._names)

    def __call__(self, signal: Signal) -> Signal:
        """The signal with its secrets masked; the same one where it has none."""
        if self._hint is None:
            return signal
        if isinstance(signal, Event):
            return self._event(signal)
        if isinstance(signal, Resource):
            changed: dict[str, Any] = {}
            if signal.state:
                state = self._masked(signal.state, lambda key: False, 0)
                if state is not signal.state:
                    changed["state"] = state
            if self._hints(signal.status.encode("utf-8", "replace")):
                changed["status"] = self._text(signal.status)
            return msgspec.structs.replace(signal, **changed) if changed else signal
        return signal

    def _hints(self, text: bytes) -> bool:
        """Whether a text may hold a secret. Most hold none, and this is all they cost."""
        # Looking for plain words first takes a tenth of what the expression does.
        low = text.lower()
        if b"\\u" in low:
            # JSON can write any letter so, and what is stored has it plain.
            return True
        for word in self._plain:
            if word in low:
                return self._hint is not None and self._hint.search(text) is not None
        return False

    def _event(self, event: Event) -> Event:
        changed: dict[str, Any] = {}
        spared = self._spared(event)
        data = event.data
        if isinstance(data, msgspec.Raw):
            if self._hints(bytes(data)):
                try:
                    read = msgspec.json.decode(data)
                    masked = self._masked(read, spared, 0)
                    if masked is not read:
                        changed["data"] = msgspec.Raw(msgspec.json.encode(masked))
                except (msgspec.MsgspecError, RecursionError):
                    # It is refused where it is written, with a reason.
                    pass
        elif data is not None:
            masked = self._masked(data, spared, 0)
            if masked is not data:
                changed["data"] = masked
        if event.attributes:
            attributes = self._masked(event.attributes, spared, 0)
            if attributes is not event.attributes:
                changed["attributes"] = attributes
        if event.problem and self._hints(event.problem.encode("utf-8", "replace")):
            changed["problem"] = self._text(event.problem)
        if event.raw is not None and self._hints(event.raw):
            text = event.raw.decode("utf-8", "surrogateescape")
            masked_text = self._text(text)
            if masked_text != text:
                changed["raw"] = masked_text.encode("utf-8", "surrogateescape")
        return msgspec.structs.replace(event, **changed) if changed else event

    def _spared(self, event: Event) -> Spared:
        def spared(key: str) -> bool:
            patterns = self._spare.get(" ".join(_words(key)), ())
            return any(it.fullmatch(event.type) or it.fullmatch(event.subject) for it in patterns)

        return spared

    def _masked(self, value: Any, spared: Spared, depth: int) -> Any:
        """The value with secrets masked; the very same object where it holds none."""
        if depth > DEEPEST:
            return value
        if isinstance(value, Mapping):
            found: dict[Any, Any] = {}
            changed = False
            for key, inner in value.items():
                if isinstance(key, str) and self.names_secret(key) and not spared(key):
                    new = MASK if _holds(inner) else inner
                else:
                    new = self._masked(inner, spared, depth + 1)
                changed = changed or new is not inner
                found[key] = new
            return found if changed else value
        if isinstance(value, list | tuple):
            items = [self._masked(it, spared, depth + 1) for it in value]
            same = all(new is old for new, old in zip(items, value, strict=True))
            return value if same else items
        if isinstance(value, str):
            text = self._text(value)
            return value if text == value else text
        return value

    def _text(self, text: str) -> str:
        return self._in_text.sub(rf"\g<1>{MASK}", text)


def _words(name: str) -> list[str]:
    """The words of a name, whichever way they are joined: `refreshToken`, `X-Auth-Token`."""
    return [it.lower() for it in WORDS.findall(name)]


def _holds(value: Any) -> bool:
    """Whether there is anything to hide."""
    return value is not None and value != "" and not isinstance(value, bool) and value != MASK
