"""The receivers of the configuration, with their notifiers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from almenara.alerting.notifications.alert_events import AlertChange
from almenara.alerting.notifications.content import Content, compile_content
from almenara.alerting.notifications.decisions import Traits
from almenara.alerting.notifications.heartbeat import check_heartbeat
from almenara.alerting.notifications.routes import Route, compile_routes
from almenara.config import (
    AlertingSettings,
    ConfigError,
    ReceiverSettings,
    decode_settings,
    suggest,
)
from almenara.config.suggestions import end_sentence
from almenara.errors import describe_error
from almenara.hookspecs import Notifier, NotifierKind
from almenara.scope import Scope, build_scope
from almenara.security.identity import read_grants

PATH: Final = "alerting.receivers"


@dataclass(frozen=True, kw_only=True)
class Receiver:
    """A receiver: where notifications go, what it may read, and how it is notified."""

    settings: ReceiverSettings
    kind: NotifierKind
    notifier: Notifier
    content: Content
    scope: Scope
    fallback: str

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def traits(self) -> Traits:
        """What of it decides whether it is notified."""
        capabilities = self.kind.capabilities
        return Traits(
            name=self.name,
            send_resolved=self.settings.send_resolved,
            accepts_quiet=capabilities.edit or capabilities.acknowledge,
            max_alerts=capabilities.max_alerts,
            fallback=self.fallback,
        )

    def may_read(self, change: AlertChange) -> bool:
        """Whether an alert is within what the receiver may read."""
        return change.is_visible_to(self.scope)


Receivers = Mapping[str, Receiver]


def create_receivers(
    settings: AlertingSettings, kinds: Mapping[str, NotifierKind]
) -> dict[str, Receiver]:
    """Return the receivers by name. `kinds` are those of the active plugins.

    Raises `ConfigError` with the path of what is wrong, and the nearest valid name.
    """
    names = [receiver.name for receiver in settings.receivers]
    receivers: dict[str, Receiver] = {}
    for index, receiver in enumerate(settings.receivers):
        path = f"{PATH}[{index}]"
        if receiver.name in receivers:
            raise ConfigError(f"{path}.name: {receiver.name!r} is the name of another receiver")
        receivers[receiver.name] = _create_receiver(receiver, path, kinds, settings, names)
    _check_name(settings.fallback, "alerting.fallback", names)
    return receivers


def check_alerting(settings: AlertingSettings, kinds: Mapping[str, NotifierKind]) -> Route:
    """Return the routing tree. Raises `ConfigError` for anything wrong in `alerting`."""
    receivers = create_receivers(settings, kinds)
    if settings.heartbeat is not None:
        check_heartbeat(settings.heartbeat)
    return compile_routes(settings.route, list(receivers))


def _create_receiver(
    receiver: ReceiverSettings,
    path: str,
    kinds: Mapping[str, NotifierKind],
    settings: AlertingSettings,
    names: list[str],
) -> Receiver:
    kind = kinds.get(receiver.kind)
    if kind is None:
        raise ConfigError(
            f"{path}.kind: {receiver.kind!r} is not a kind of receiver;"
            f" {end_sentence(suggest(receiver.kind, sorted(kinds)))} Kinds come with plugins:"
            " `almenara plugins list` shows which are not installed."
        )
    _check_name(receiver.fallback, f"{path}.fallback", names)
    if receiver.fallback == receiver.name:
        raise ConfigError(f"{path}.fallback: a receiver cannot be its own fallback")
    own = decode_settings(kind.settings, receiver.settings, place=f"{path}.settings")
    try:
        notifier = kind.create(own)
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path}.settings: {describe_error(error)}") from None
    if not isinstance(notifier, Notifier):
        raise ConfigError(
            f"{path}.kind: the notifier {kind.name} has no `notify`; report this to its author"
        )
    fallback = receiver.fallback or settings.fallback
    return Receiver(
        settings=receiver,
        kind=kind,
        notifier=notifier,
        content=compile_content(receiver, path),
        scope=build_scope(read_grants(receiver.grants), access_log=not receiver.grants),
        fallback="" if fallback == receiver.name else fallback,
    )


def _check_name(name: str, path: str, names: list[str]) -> None:
    if name and name not in names:
        raise ConfigError(f"{path}: {name!r} is not a receiver; {suggest(name, names)}")
