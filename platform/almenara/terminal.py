"""Untrusted text for a terminal: control characters are escaped, so that it cannot be driven."""

PLACEHOLDER = "\u00b7"
"""Stands for a character that a terminal would interpret or hide."""


def escape_control_characters(text: str, *, keep_newlines: bool = False) -> str:
    """Return the text with a dot for each character that a terminal would interpret or hide.

    Newlines are kept only with `keep_newlines`; elsewhere they could fake a line of output.
    """
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or (keep_newlines and character == "\n")
        else PLACEHOLDER
        for character in text
    )


def escape_json_control_characters(text: str) -> str:
    """Return the same JSON with such characters as `\\uXXXX`, so that its value is unchanged."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else _json_escape(character) for character in text
    )


def _json_escape(character: str) -> str:
    # JSON escapes UTF-16 code units, so a character outside the BMP becomes a surrogate pair.
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
