"""Kubeconfig files: merged as client-go merges them, with the paths in them resolved.

https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/

An error names the file and the key, and never contains a value: any of them may be a secret.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from almenara.config import suggest
from almenara_kube.errors import UnreachableError
from almenara_kube.kinds import drop_nulls
from almenara_kube.settings import KubeContext

DEFAULT_PATH: Final = Path("~/.kube/config")


class ExecVariable(msgspec.Struct, frozen=True):
    name: str
    value: str = ""


class ExecConfig(msgspec.Struct, frozen=True, rename="camel"):
    """A program that prints credentials."""

    command: str
    api_version: str
    args: Sequence[str] = ()
    env: Sequence[ExecVariable] = ()
    install_hint: str = ""
    provide_cluster_info: bool = False
    interactive_mode: str = "IfAvailable"


class AuthProvider(msgspec.Struct, frozen=True):
    """An authentication method that is compiled into clients; only `oidc` is left of them."""

    name: str
    config: dict[str, str] = {}


class Extension(msgspec.Struct, frozen=True):
    name: str
    extension: Any = None


class Cluster(msgspec.Struct, frozen=True, rename="kebab"):
    server: str = ""
    tls_server_name: str = ""
    insecure_skip_tls_verify: bool = False
    certificate_authority: str = ""
    certificate_authority_data: str = ""
    proxy_url: str = ""
    extensions: Sequence[Extension] = ()


class User(msgspec.Struct, frozen=True, rename="kebab"):
    client_certificate: str = ""
    client_certificate_data: str = ""
    client_key: str = ""
    client_key_data: str = ""
    token: str = ""
    token_file: str = msgspec.field(default="", name="tokenFile")
    as_: str = msgspec.field(default="", name="as")
    as_uid: str = ""
    as_groups: Sequence[str] = ()
    as_user_extra: dict[str, list[str]] = {}
    username: str = ""
    password: str = ""
    auth_provider: AuthProvider | None = None
    exec: ExecConfig | None = None


class Context(msgspec.Struct, frozen=True):
    cluster: str = ""
    user: str = ""
    namespace: str = ""


class _NamedCluster(msgspec.Struct, frozen=True):
    name: str
    cluster: Cluster = Cluster()


class _NamedUser(msgspec.Struct, frozen=True):
    name: str
    user: User = User()


class _NamedContext(msgspec.Struct, frozen=True):
    name: str
    context: Context = Context()


class _File(msgspec.Struct, frozen=True, rename="kebab"):
    clusters: Sequence[_NamedCluster] = ()
    users: Sequence[_NamedUser] = ()
    contexts: Sequence[_NamedContext] = ()
    current_context: str = ""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One context of a kubeconfig: its cluster and its user, each with the folder of its file,
    against which relative paths are resolved."""

    cluster: Cluster
    user: User
    cluster_folder: Path
    user_folder: Path
    namespace: str = ""


def kubeconfig_paths(context: KubeContext) -> Sequence[Path]:
    """The files to merge: the configured one, those of KUBECONFIG, or the default."""
    if context.kubeconfig is not None:
        return [context.kubeconfig.expanduser()]
    names = dict.fromkeys(filter(None, os.environ.get("KUBECONFIG", "").split(os.pathsep)))
    return [Path(name).expanduser() for name in names] or [DEFAULT_PATH.expanduser()]


def read_entry(context: KubeContext) -> Entry:
    """Read the files and return the entry of the context; blocks. Raises `UnreachableError`.

    As in client-go, the first file that has a name or a current context wins, and files of
    KUBECONFIG that do not exist are skipped.
    """
    paths = kubeconfig_paths(context)
    files = [(path, _read_file(path)) for path in paths if path.is_file()]
    where = os.pathsep.join(map(str, paths))
    if not files:
        raise UnreachableError(
            f"the kubeconfig {where} does not exist; set `kubeconfig` to a file, or create it"
        )
    name = context.context or next(
        (file.current_context for _, file in files if file.current_context), ""
    )
    if not name:
        raise UnreachableError(
            f"the kubeconfig {where} has no current-context; set `context` to one of its contexts"
        )
    contexts = {item.name: item.context for _, file in reversed(files) for item in file.contexts}
    clusters = {
        item.name: (item.cluster, path) for path, file in reversed(files) for item in file.clusters
    }
    users = {item.name: (item.user, path) for path, file in reversed(files) for item in file.users}
    if name not in contexts:
        raise UnreachableError(
            f"the kubeconfig {where} has no context {name!r}; {suggest(name, contexts)}"
        )
    chosen = contexts[name]
    if chosen.cluster not in clusters:
        raise UnreachableError(
            f"the kubeconfig {where} has no cluster {chosen.cluster!r}, which its context"
            f" {name!r} names"
        )
    if chosen.user and chosen.user not in users:
        raise UnreachableError(
            f"the kubeconfig {where} has no user {chosen.user!r}, which its context {name!r} names"
        )
    cluster, cluster_path = clusters[chosen.cluster]
    user, user_path = users.get(chosen.user, (User(), cluster_path))
    _check(where, chosen, cluster, user)
    return Entry(
        cluster=cluster,
        user=user,
        cluster_folder=cluster_path.absolute().parent,
        user_folder=user_path.absolute().parent,
        namespace=chosen.namespace,
    )


def _check(where: str, context: Context, cluster: Cluster, user: User) -> None:
    """Raise `UnreachableError` for what client-go refuses to use."""
    problem = ""
    if not cluster.server:
        problem = f"cluster {context.cluster!r} has no server"
    elif user.exec is not None and user.auth_provider is not None:
        problem = f"user {context.user!r} has both exec and auth-provider"
    elif user.exec is not None and not user.exec.command:
        problem = f"exec.command of user {context.user!r} is empty"
    elif (user.as_uid or user.as_groups or user.as_user_extra) and not user.as_:
        problem = f"user {context.user!r} has as-uid, as-groups or as-user-extra without as"
    if problem:
        raise UnreachableError(f"the kubeconfig {where} cannot be used: {problem}")


def _read_file(path: Path) -> _File:
    try:
        tree = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise UnreachableError(
            f"the kubeconfig {path} cannot be read: {error.strerror or type(error).__name__}"
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # The text of the error quotes the file.
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark is not None else ""
        raise UnreachableError(f"the kubeconfig {path} is not valid YAML{line}") from None
    try:
        file = msgspec.convert(drop_nulls(tree or {}), _File)
    except msgspec.ValidationError as error:
        # The text names types and the path of the key, no values.
        raise UnreachableError(f"the kubeconfig {path} is not valid: {error}") from None
    for kind, items in (
        ("cluster", file.clusters),
        ("user", file.users),
        ("context", file.contexts),
    ):
        names = [item.name for item in items]
        for name in names:
            if names.count(name) > 1:
                raise UnreachableError(f"the kubeconfig {path} has two of the {kind} {name!r}")
    return file
