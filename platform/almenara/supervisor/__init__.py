"""The supervisor: runs each source apart from the others, and restarts it with backoff."""

from almenara.supervisor.runner import SourceRunner
from almenara.supervisor.source_thread import call_on_loop
from almenara.supervisor.state import SourceError, SourceState
from almenara.supervisor.supervisor import Supervisor

__all__ = ["SourceError", "SourceRunner", "SourceState", "Supervisor", "call_on_loop"]
