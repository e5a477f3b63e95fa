"""A screen of a panel with live texts, which applies frames as a page does."""

import re
from html import unescape
from typing import Any

import msgspec

PRE = re.compile(r'(<pre id="([^"]+)">)(.*?)(</pre>)', re.DOTALL)
PART = re.compile(r'<i hx-swap-oob="(beforeend|innerHTML):#([^"]+)">(.*?)</i>', re.DOTALL)


class TextScreen:
    """The texts on screen by the id of their element, and the rest of the panel."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.skeleton = ""
        self.whole = 0
        """Frames that replaced the whole panel."""
        self.parts = 0
        """Frames that only changed texts."""
        self.bytes = 0

    def apply(self, frame: str) -> None:
        """Apply a frame."""
        values: dict[str, Any] = msgspec.json.decode(frame)
        content = values.get("content")
        if content is None:
            return
        self.bytes += len(frame)
        if values["swap"] == "innerMorph":
            self.whole += 1
            self.texts = {match[2]: unescape(match[3]) for match in PRE.finditer(content)}
            self.skeleton = PRE.sub(r"\1\4", content)
            return
        self.parts += 1
        for swap, anchor, added in PART.findall(content):
            if anchor in self.texts:
                before = self.texts[anchor] if swap == "beforeend" else ""
                self.texts[anchor] = before + unescape(added)
