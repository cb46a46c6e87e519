"""Failures that are not a job's fault: the disk, the model, the device. The jobs stay open and nothing is recorded."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_CLOSED = {errno.EROFS, errno.EACCES, errno.EPERM}


class OutputError(OSError):
    """The output folder cannot be written, in one sentence with the way out."""


class ModelError(ValueError):
    """A model cannot be loaded."""


class DeviceError(RuntimeError):
    """The device no longer works; only a new process can use it again."""


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns errors of the file system into one sentence about the output folder."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(explain(folder, error)) from error


def explain(folder: Path, error: OSError) -> str:
    """What to do about an error of the file system."""
    if error.errno in _FULL:
        return f"the disk of {folder} is full; free some space and run the same command again, it goes on from here."
    if error.errno in _CLOSED:
        return f"{folder} cannot be written ({_words(error)}); choose another folder (--out) or change its permissions."
    return f"{folder} cannot be used for output ({_words(error)}: {error.filename or 'no name'})."


def _words(error: OSError) -> str:
    return (error.strerror or (os.strerror(error.errno) if error.errno else type(error).__name__)).lower()
