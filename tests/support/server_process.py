"""What the servers of tests have in common: a process that can be frozen, killed and restarted."""

import os
import signal
import subprocess
from collections.abc import Callable
from types import TracebackType
from typing import Self

from almenara.testing import SourceRun


class PatientRun(SourceRun):
    """A run that waits longer for conditions: servers start and fail over meanwhile."""

    async def until(self, condition: Callable[[], bool], patience: float = 120.0) -> None:
        await super().until(condition, patience)


class ServerProcess:
    """A server on loopback; it keeps its port and its data when it is started again."""

    port: int
    scheme = "tcp"
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.address}"

    def start(self) -> Self:
        raise NotImplementedError

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """End it as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            if self.process.stdin is not None:
                self.process.stdin.close()
            self.process = None

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.kill()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
