"""The standard output of commands, on a disk that may be full or a pipe that may be closed."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, Final, NoReturn, cast

import click

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

STDOUT: Final = 1


class OutputError(Exception):
    """The standard output cannot be written.

    Not an `OSError`, which commands report as one of the file that they read or write.
    """


class OutputFile(io.FileIO):
    """The standard output, of which errors are known as such."""

    def write(self, data: "ReadableBuffer") -> int:
        """Write to the file. Raises `OutputError`."""
        try:
            return super().write(data)
        except OSError as error:
            raise OutputError(error.strerror) from error


@contextmanager
def checked_output() -> Iterator[None]:
    """End the process with one line where its output cannot be written, and without one where the
    reader of a pipe has closed it."""
    stream = sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        file = OutputFile(STDOUT, "w", closefd=False)
        # With PYTHONUNBUFFERED, Python has no buffer either.
        is_buffered = isinstance(stream.buffer, io.BufferedWriter)
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(file) if is_buffered else cast("BinaryIO", file),
            encoding=stream.encoding,
            errors=stream.errors,
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
    try:
        try:
            yield
        finally:
            # What is left in the buffer would fail once Python ends, with a traceback.
            if sys.stdout is not None:
                sys.stdout.flush()
    except OutputError as error:
        if not isinstance(error.__cause__, BrokenPipeError):
            click.echo(f"Error: The output cannot be written: {error}.", err=True)
        _end()


def _end() -> NoReturn:
    """Discard what is left of the output."""
    with open(os.devnull, "wb") as null:
        os.dup2(null.fileno(), STDOUT)
    raise SystemExit(1) from None
