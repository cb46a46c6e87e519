"""The sheets of the clips that the studio keeps: written once, and gone when their clip goes."""

from __future__ import annotations

import threading
import weakref

from accel.app.gradio_pair.sheets import FrameSheets, write_sheets
from accel.app.pair import Side


class _Writing:
    """The sheets of one clip, while they are written and after. Each clip has a lock of its own, because compressing
    takes seconds in which the others need not wait.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.sheets: FrameSheets | None = None


_WRITTEN: dict[int, _Writing] = {}
_LOCK = threading.Lock()


def sheets_of(side: Side) -> FrameSheets:
    """Writes the sheets of this clip beside its file. They go when the clip goes, and are written once."""
    with _LOCK:
        if id(side) not in _WRITTEN:
            _WRITTEN[id(side)] = _Writing()
            weakref.finalize(side, _forget, id(side))
        writing = _WRITTEN[id(side)]
    with writing.lock:
        if writing.sheets is None:
            writing.sheets = write_sheets(side.frames, side.path.parent)
        return writing.sheets


def _forget(key: int) -> None:
    writing = _WRITTEN.pop(key)
    for path in writing.sheets.files if writing.sheets else ():
        path.unlink(missing_ok=True)
