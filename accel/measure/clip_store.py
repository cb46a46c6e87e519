"""Clips by what made them: a few in memory, the others on disk, because sixty of real video are tens of gigabytes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel.measure.output import PipelineOutput
from accel.measure.sound import Sound

Key = tuple[str, int]
"""The label of a variant, and the number of a prompt."""
IN_MEMORY = 2**28


class ClipStore(MutableMapping[Key, NDArray[Any]]):
    """Holds at most `most` bytes in memory (a quarter of a gigabyte), and what comes after in files.

    The files are deleted with this object. What is given back of one is a memory map: it takes memory as far as it is
    looked at, and writing to it changes no file.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = IN_MEMORY if most is None else most
        self._held: dict[Key, NDArray[Any]] = {}
        self._files: dict[Key, Path] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._written = 0

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(clip.nbytes for clip in self._held.values())

    def __getitem__(self, key: Key) -> NDArray[Any]:
        if key in self._held:
            return self._held[key]
        found: NDArray[Any] = np.load(self._files[key], mmap_mode="c")
        return found

    def __setitem__(self, key: Key, clip: NDArray[Any]) -> None:
        if key in self:
            del self[key]
        if self.nbytes + clip.nbytes <= self._most:
            self._held[key] = clip
            return
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="accel-clips-", ignore_cleanup_errors=True)
        self._files[key] = Path(self._folder.name, f"{self._written}.npy")
        self._written += 1
        np.save(self._files[key], clip)

    def __delitem__(self, key: Key) -> None:
        if self._held.pop(key, None) is None:
            self._files.pop(key).unlink(missing_ok=True)

    def __iter__(self) -> Iterator[Key]:
        yield from self._held
        yield from self._files

    def __len__(self) -> int:
        return len(self._held) + len(self._files)


class OutputStore:
    """Outputs by what made them, each to be taken out once; frames and sound are kept as a `ClipStore` keeps arrays."""

    def __init__(self) -> None:
        self._frames, self._samples = ClipStore(), ClipStore()
        self._rates: dict[Key, int] = {}

    def put(self, key: Key, made: PipelineOutput) -> None:
        if made.frames is not None:
            self._frames[key] = made.frames
        if made.sound is not None:
            self._samples[key], self._rates[key] = made.sound.samples, made.sound.rate

    def get(self, key: Key) -> PipelineOutput:
        sound = Sound(self._samples[key], self._rates[key]) if key in self._samples else None
        return PipelineOutput(self._frames.get(key), sound)

    def pop(self, key: Key) -> PipelineOutput:
        made = self.get(key)
        self._frames.pop(key, None)
        self._samples.pop(key, None)
        return made
