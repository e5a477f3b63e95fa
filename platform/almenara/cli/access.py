"""`almenara access`: manage tokens and sessions on the machine of the database."""

import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import rich_click as click
from click.core import ParameterSource

from almenara.bus.storage_errors import describe_open_error, is_full
from almenara.cli.common import CommandError, read_settings
from almenara.config import Settings, suggest
from almenara.errors import AlmenaraError
from almenara.scope import Grant
from almenara.security.identity import USER_ROLES, Role
from almenara.security.secret_hash import generate_secret, hash_secret
from almenara.security.store import AccessStore
from almenara.security.tokens import create_token, describe_role
from almenara.signals import format_time, now
from almenara.terminal import escape_control_characters
from almenara.units import DAY, HOUR, SECOND

LIFETIME: Final = re.compile(r"(\d{1,5})([hd])")
LIFETIME_SECONDS: Final = {"h": HOUR // SECOND, "d": DAY // SECOND}


@click.group()
def access() -> None:
    """Create, list and revoke access tokens, API tokens and sessions.

    A running Almenara with the same database uses the changes: new tokens at once, revocations
    within two seconds.
    """


@access.command()
@click.pass_context
def rotate(context: click.Context) -> None:
    """Replace the access token and print the new one, once. Sessions of the old one end."""
    settings = read_settings(context)
    if settings.auth.token is not None:
        raise CommandError(
            "The access token is set by auth.token. Change it there; it takes effect at once."
        )
    token = generate_secret()
    with _open_store(settings) as store:
        store.set_access_hash(hash_secret(token), now())
    click.echo(token)


@access.command()
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice([role.name.lower() for role in USER_ROLES]),
    default="viewer",
    show_default=True,
    help="Role of the token.",
)
@click.option("--expires", default="7d", show_default=True, help="Lifetime: `12h` or `30d`.")
@click.option("--source", "sources", multiple=True, help="Grant only this source; repeatable.")
@click.option("--type", "types", multiple=True, help="Grant only this pattern of event types.")
@click.option("--namespace", "namespaces", multiple=True, help="Grant only this namespace.")
@click.option("--intake", help="Only push signals to this intake of the configuration.")
@click.pass_context
def create(
    context: click.Context,
    name: str,
    role: str,
    expires: str,
    sources: Sequence[str],
    types: Sequence[str],
    namespaces: Sequence[str],
    intake: str | None,
) -> None:
    """Create an API token called NAME for a script and print it, once."""
    settings = read_settings(context)
    match = LIFETIME.fullmatch(expires)
    lifetime = int(match[1]) * LIFETIME_SECONDS[match[2]] if match else 0
    longest = settings.auth.max_token_lifetime
    if not 0 < lifetime <= longest:
        raise CommandError(
            f"--expires {expires} is not valid. Write 12h or 30d, and at most"
            f" {longest / LIFETIME_SECONDS['d']:.0f}d (auth.max_token_lifetime)."
        )
    if intake is not None:
        _check_intake(context, settings, intake)
    grant = Grant(sources=tuple(sources), types=tuple(types), namespaces=tuple(namespaces))
    token, value = create_token(
        name, Role[role.upper()], [grant], lifetime, created_by="the command line",
        intake=intake or "",
    )  # fmt: skip
    with _open_store(settings) as store:
        store.add_token(token)
    click.echo(value)


@access.command("list")
@click.pass_context
def list_access(context: click.Context) -> None:
    """List API tokens and sessions."""
    with _open_store(read_settings(context)) as store:
        stored = store.read()
    for token in stored.tokens:
        expired = "" if token.expires > now() else "  expired"
        click.echo(
            f"token    {token.id}  {describe_role(token):8}"
            f"  until {format_time(token.expires)[:16]}{expired}"
            f"  {escape_control_characters(token.name)}"
        )
    for session in stored.sessions:
        if session.expires > now():
            click.echo(
                f"session  {session.id}  {escape_control_characters(session.user.name)}"
                f"  from {session.address}"
                f"  last seen {format_time(session.last_seen)[:16]}"
            )


@access.command()
@click.argument("id_", metavar="ID")
@click.pass_context
def revoke(context: click.Context, id_: str) -> None:
    """Revoke the API token, or end the session, with this ID of `almenara access list`."""
    with _open_store(read_settings(context)) as store:
        is_revoked = store.remove_token(id_) or store.remove_session(id_)
    if not is_revoked:
        raise CommandError(f"No session and no API token has the id {id_}.")
    click.echo("Revoked. Its open pages close within two seconds.")


def _check_intake(context: click.Context, settings: Settings, intake: str) -> None:
    """Raise `CommandError` for an intake that is not configured, and for options that grant more
    than pushing."""
    if intake not in settings.intake:
        raise CommandError(
            f"No intake is named {intake}; {suggest(intake, settings.intake)}. Add it to the"
            " section intake of the configuration first."
        )
    for option in ("role", "sources", "types", "namespaces"):
        if context.get_parameter_source(option) is not ParameterSource.DEFAULT:
            raise CommandError(
                "A token with --intake reads nothing, so --role, --source, --type and --namespace"
                " do not apply to it."
            )


@contextmanager
def _open_store(settings: Settings) -> Iterator[AccessStore]:
    """Yield the store of tokens and sessions; its errors become those of the command."""
    directory = settings.storage.dir
    try:
        yield AccessStore(directory)
    except AlmenaraError as error:
        raise CommandError(str(error)) from None
    except (OSError, sqlite3.Error) as error:
        if is_full(error):
            raise CommandError(
                f"The disk that holds {directory} is full. Free space on it, and run the command"
                " again."
            ) from None
        raise CommandError(describe_open_error(error, directory)) from None
