"""Commands in a root filesystem that they cannot write, as the user that the chart names.

What a container engine does, with what the kernel offers root: a mount namespace in which a folder
is the root, mounted read-only, with the volumes of the pod mounted over it.
"""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path


def isolated(
    root: Path,
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    writable: Mapping[str, Path],
    readable: Mapping[str, Path],
    uid: int = 10001,
) -> list[str]:
    """A command line that runs `command` in `root`, with files and folders mounted in it.

    The process that it becomes is the command itself, so that signals reach it.
    """
    for where, what in {**readable, **writable}.items():
        place = root / where.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if what.is_dir():
            place.mkdir(exist_ok=True)
        else:
            place.touch()
    steps = ["mount --make-rprivate /", *_bind(root, root)]
    for where, what in {**readable, **writable}.items():
        steps += _bind(what, root / where.lstrip("/"), read_only=where in readable)
    steps += [
        *_bind(Path("/proc"), root / "proc"),
        *_bind(Path("/dev"), root / "dev"),
        f"mount -o remount,bind,ro {shlex.quote(str(root))}",
        "exec "
        + shlex.join(
            ["setpriv", "--no-new-privs", "chroot", f"--userspec={uid}:{uid}", f"--groups={uid}",
             str(root), "/usr/bin/env", "-i", *(f"{n}={v}" for n, v in environment.items()),
             *command]
        ),
    ]  # fmt: skip
    return ["unshare", "--mount", "sh", "-euc", "\n".join(steps)]


def _bind(what: Path, where: Path, *, read_only: bool = False) -> list[str]:
    source, target = shlex.quote(str(what)), shlex.quote(str(where))
    result = [f"mount --bind {source} {target}"]
    if read_only:
        result.append(f"mount -o remount,bind,ro {target}")
    return result
