"""Secrets in names and texts of other programs: command lines, manifests, messages and logs.

What Almenara knows to be secret is redacted by its value, and data before it is stored by the names
in `redaction.keys`; this finds what is only likely to be one.
"""

import re
from typing import Final

MASK: Final = "***"
SECRET_NAME: Final = re.compile(
    r"""
    passw | passphrase | passcode
    # At the end, as in `requirepass` and `DB_PASS`; and no `bypass` or `compass`.
    | (?<!by)(?<!com)(?<!sur)(?<!tres)(?<!over)(?<!under)pass\d*$
    | [a-z0-9][-_.]?(?<!old)pwd$
    | secret | credential | cookie | bearer | signature
    | (?<![a-z])(?:creds? | psk)$
    # Counts of tokens and tokenizers are no secrets.
    | token(?!s|iz) | (?:auth|access|api|bearer|refresh|session)[-_.]?tokens
    | (?:access|account|api|auth|encryption|license|master|private|shared|signing)[-_.]?key
    | authorization$ | auth(?:[-_.]?(?:string|info|data|header|code))?$
    | dsn$ | conn(?:ection)?[-_.]?str
    """,
    re.IGNORECASE | re.VERBOSE,
)
PASSWORD_NAME: Final = re.compile(r"(?i)passw|pass\d*$|pwd$")
AMBIGUOUS_NAME: Final = re.compile(r"(?i)(?:auth|authorization|creds?|dsn|cookie|signature)$")
"""Names that are also those of services and images, and stand before a colon in sentences."""
NAME: Final = re.compile(r"[A-Za-z0-9_.-]+")
QUOTED: Final = "|".join(
    # Escaped within another quoted text, and not.
    rf"\\{{1,8}}{quote}[^{quote}\\]*(?:\\{{1,8}}{quote}|$)"
    rf"|{quote}(?:[^{quote}\\]|\\[\s\S])*(?:{quote}|\\?$)"
    for quote in ('"', "'")
)
"""A quoted text, which may be escaped within another one, or cut off."""
ASSIGNED: Final = re.compile(
    r"(?P<between>\\{0,8}[\"']?\s*[=:]\s*(?:(?i:bearer|basic|digest)\s+)?)"
    rf"(?P<value>{QUOTED}|[^\s&;,\"']+)"
)
PLACE: Final = re.compile(r":\d+\b")
"""A number right after a colon: of a line or a port."""
SCHEME: Final = re.compile(r"(?i)(?:bearer|basic|digest)\s")
OPTION_NAME: Final = re.compile(r"(?:\A|[\s\"'])-")
OPTION: Final = re.compile(rf"(?P<between>(?:[\"'],?)?\s+)(?P<value>(?![\"']?-)(?:{QUOTED}|\S+))")
AUTHORIZATION: Final = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}")
USER_INFORMATION: Final = re.compile(
    # A password may have a slash or an `@` that should be escaped; a port is no password.
    r"(?<=://)(?:[^/\s\"'<>]{1,512}|[^/\s\"'<>:]{0,256}:(?!\d+/)[^\s\"'<>@]{1,512})(?=@)"
)
PRIVATE_KEY: Final = re.compile(
    r"-----BEGIN [^-]*PRIVATE KEY-----.*?(?:-----END [^-]*-----|\Z)", re.DOTALL
)
WEB_TOKEN: Final = re.compile(
    # A word is read once, from its start, so that no text takes quadratic time.
    r"(?<![\w-])((?>[\w-]*?\b(?=eyJ)))eyJ[\w-]{8,}+\.[\w-]{8,}+\.[\w-]*+"
)


def is_secret_name(name: str) -> bool:
    """Whether an option, variable or key of this name is likely to have a secret as its value."""
    return SECRET_NAME.search(name) is not None


def mask_secrets(text: str, mask: str = MASK) -> str:
    """Return the text with likely secrets masked: values of options, variables and keys with the
    names of secrets, user information in addresses, private keys, and tokens."""
    text = USER_INFORMATION.sub(lambda _: mask, text)
    text = PRIVATE_KEY.sub(lambda _: mask, text)
    text = WEB_TOKEN.sub(lambda match: f"{match[1]}{mask}", text)
    text = AUTHORIZATION.sub(lambda match: f"{match[1]} {mask}", text)
    parts, position = list[str](), 0
    # Match names first and a value only after that of a secret: a single expression for both takes
    # time quadratic in the length of some texts.
    for name in NAME.finditer(text):
        if name.start() < position or not is_secret_name(name[0]):
            continue
        value = _find_value(text, name)
        if value is not None:
            parts += [text[position : name.end()], value["between"], mask]
            position = value.end()
    return "".join(parts) + text[position:]


def _find_value(text: str, name: re.Match[str]) -> re.Match[str] | None:
    """Find the value that follows a name."""
    if text.startswith(":", name.end()):
        is_place = PLACE.match(text, name.end()) and PASSWORD_NAME.search(name[0]) is None
        is_header = text.startswith(": ", name.end()) and SCHEME.match(text, name.end() + 2)
        if is_place or (AMBIGUOUS_NAME.search(name[0]) and not is_header):
            return None
    value = ASSIGNED.match(text, name.end())
    if value is None and OPTION_NAME.match(text, max(0, name.start() - 1)):
        value = OPTION.match(text, name.end())
    return value
