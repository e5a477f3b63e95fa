"""`almenara access`: tokens and sessions, from the terminal of the machine it runs on."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import click

from almenara.config import Settings
from almenara.scope import Grant
from almenara.security import tokens as api_tokens
from almenara.security.identity import Role
from almenara.security.secret_hash import generated, hashed
from almenara.security.store import Store
from almenara.signals import format_time, now
from almenara.terminal import printable

LIFETIME: Final = re.compile(r"(\d{1,5})([hd])")
SECONDS: Final = {"h": 3600, "d": 86400}
SECOND: Final = 1_000_000


def access_commands(read_settings: Callable[[], Settings]) -> click.Group:
    """The commands, which change the file that a running Almenara reads as well."""

    def store() -> Store:
        return Store(Path(read_settings().storage.dir))

    @click.group()
    def access() -> None:
        """Give access, and take it away.

        Changes count for a running Almenara on the same folder as well: new tokens at once, the end
        of old ones within two seconds.
        """

    @access.command()
    def rotate() -> None:
        """Make a new access token and print it, once; sessions of the one before end."""
        if read_settings().auth.token is not None:
            raise click.ClickException(
                "The access token comes from auth.token; change it there, and it counts at once."
            )
        token = generated()
        store().set_access_hash(hashed(token), now())
        click.echo(token)

    @access.command()
    @click.argument("name")
    @click.option("--role", type=click.Choice([it.name.lower() for it in Role]), default="viewer",
                  show_default=True, help="What it may do.")  # fmt: skip
    @click.option("--expires", default="7d", show_default=True, help="`12h` or `30d` from now.")
    @click.option("--source", "sources", multiple=True, help="Only this source; repeatable.")
    @click.option("--type", "types", multiple=True, help="Only events of this type, as a pattern.")
    @click.option("--namespace", "namespaces", multiple=True, help="Only this namespace.")
    def create(
        name: str,
        role: str,
        expires: str,
        sources: Sequence[str],
        types: Sequence[str],
        namespaces: Sequence[str],
    ) -> None:
        """Make an API token called NAME for a script and print it, once."""
        found = LIFETIME.fullmatch(expires)
        lifetime = int(found[1]) * SECONDS[found[2]] if found else 0
        longest = read_settings().auth.max_token_lifetime
        if not 0 < lifetime <= longest:
            raise click.ClickException(
                f"--expires {expires}: write 12h or 30d, and at most {longest / 86400:.0f}d"
                " (auth.max_token_lifetime)."
            )
        grant = Grant(sources=tuple(sources), types=tuple(types), namespaces=tuple(namespaces))
        token, sent = api_tokens.made(
            name, Role[role.upper()], [grant], lifetime, by="the command line"
        )
        store().add_token(token)
        click.echo(sent)

    @access.command("list")
    def list_() -> None:
        """List API tokens and sessions."""
        kept = store().read()
        for token in kept.tokens:
            over = "" if token.expires > now() else "  over"
            click.echo(
                f"token    {token.id}  {Role(token.role).name.lower():8}"
                f"  until {format_time(token.expires)[:16]}{over}  {printable(token.name)}"
            )
        for session in kept.sessions:
            if session.expires > now():
                click.echo(
                    f"session  {session.id}  {printable(session.person.name)}"
                    f"  from {session.address}"
                    f"  seen {format_time(session.seen)[:16]}"
                )

    @access.command()
    @click.argument("id_")
    def revoke(id_: str) -> None:
        """End the session, or revoke the API token, with this id of `almenara access list`."""
        place = store()
        if not (place.remove_token(id_) or place.remove_session(id_)):
            raise click.ClickException(f"There is no session and no token {id_}.")
        click.echo("Done; open pages close within two seconds.")

    return access
