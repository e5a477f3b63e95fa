"""Text from outside as a terminal shows it, and never obeys it."""


def printable(text: str, *, lines: bool = False) -> str:
    """The text without what a terminal would obey or hide: a dot stands for each such character.

    Line feeds stay where `lines` says so; elsewhere they could fake a line.
    """
    if text.isprintable():
        return text
    return "".join(it if it.isprintable() or (lines and it == "\n") else "\u00b7" for it in text)


def printable_json(text: str) -> str:
    """The same JSON with such characters escaped, so that whoever reads it gets what it says."""
    if text.isprintable():
        return text
    return "".join(it if it.isprintable() else _escaped(it) for it in text)


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[it]:02x}{units[it + 1]:02x}" for it in range(0, len(units), 2))
