"""Origins that are not a server's own, and look as if they were."""

import random
import string
from collections.abc import Iterator

TRICKS = (
    *"@#?/\\:.-_% ,;&|'\"`<>*[]{}01\t\x00\x7f\xa0\xad", "%00", "%2e", "%09", "//", "://",
    ".evil.example", "evil.example", "null", "xn--", "www.",
)  # fmt: skip
SCHEMES = (
    "http", "https", "ws", "wss", "file", "data", "javascript", "blob", "chrome-extension",
    "moz-extension", "about", "ftp", "HTTP", "hTTps", "", "httpss", "http+https",
)  # fmt: skip
THIS_MACHINE = (
    "localhost", "127.1", "0", "[::1]", "[::ffff:7f00:1]", "2130706433", "0x7f.1", "127.0.0.2",
    "0177.0.0.1", "evil.example",
)  # fmt: skip


def forged(name: str, port: int, right: frozenset[str], seed: int, count: int) -> Iterator[str]:
    """Distinct texts, none of them in `right`, one to four changes away from an origin that is.

    Names are compared without regard to case, as the web does.
    """
    chance = random.Random(seed)
    given: set[str] = set()
    while len(given) < count:
        scheme, host, at = chance.choice(("http", "https")), name, f":{port}"
        for _ in range(chance.randint(1, 4)):
            scheme, host, at = _changed(chance, scheme, host, at)
        text = f"{scheme}://{host}{at}"
        for _ in range(chance.choice((0, 0, 1, 2))):
            spot = chance.randint(0, len(text))
            text = text[:spot] + chance.choice(TRICKS) + text[spot:]
        if _folded(text) not in right and text not in given:
            given.add(text)
            yield text


def _folded(text: str) -> str:
    scheme, mark, rest = text.partition("://")
    return f"{scheme}{mark}{rest.lower()}"


def _changed(chance: random.Random, scheme: str, host: str, at: str) -> tuple[str, str, str]:
    spot = chance.randint(0, len(host))
    match chance.randrange(12):
        case 0:
            scheme = chance.choice(SCHEMES)
        case 1:
            at = chance.choice(("", ":80", ":443", ":0", ":65536", ":1e3", ":-1", ":", at + "0"))
        case 2:
            at = f":{chance.randint(0, 70_000)}"
        case 3:
            host = f"{host}.{chance.choice(('evil.example', 'com', 'localhost', 'example'))}"
        case 4:
            host = chance.choice(("evil", "a.", "www.", "evil.example@", "evil.example#")) + host
        case 5:
            host = host[:spot] + host[spot + 1 :]
        case 6:
            host = host[:spot] + chance.choice(string.ascii_letters + "0123456789.-_") + host[spot:]
        case 7:
            host = host[:spot] + chance.choice(TRICKS) + host[spot:]
        case 8:
            host = "".join(each.upper() if chance.random() < 0.5 else each for each in host)
        case 9:
            host = chance.choice(THIS_MACHINE)
        case 10:
            at += chance.choice(("/", "/x", "?x", "#x", "@evil.example", ", http://evil.example"))
        case _:
            host = f"user:{host}@{host}"
    return scheme, host, at
