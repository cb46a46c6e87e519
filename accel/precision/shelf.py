"""A model's own weights out of memory for the time of a pipeline call: in files, from where they can still be read."""

from __future__ import annotations

import tempfile
import weakref
from contextlib import suppress
from pathlib import Path

import torch

from accel.patch import exchange_memory


class Shelf:
    """Holds weights in files of the folder for temporary ones (TMPDIR), mapped into memory.

    A layer whose weights are there works as ever, bit for bit: the system reads what is asked for and lets go of it
    when memory is short. So what goes on using the originals (first and last steps, adapters, another thread) is right
    and slow. A folder in main memory (tmpfs) saves nothing.
    """

    def __init__(self) -> None:
        self._away: list[tuple[weakref.ref[torch.nn.Parameter], int]] = []
        self.bytes = 0  # ever in files at once

    def put_away(self, weight: torch.nn.Parameter) -> bool:
        """Moves the numbers into a file. Returns False where that would save nothing: on another device, or where
        others use the same memory.
        """
        size = weight.numel() * weight.element_size()
        if weight.device.type != "cpu" or not weight.is_contiguous() or weight.untyped_storage().nbytes() != size:
            return False
        with tempfile.NamedTemporaryFile(prefix="accel-weights-", delete=False) as file:
            weight.detach().view(torch.uint8).numpy().tofile(file)
        mapped = torch.from_file(file.name, shared=False, size=weight.numel(), dtype=weight.dtype)
        with suppress(OSError):  # Windows deletes no file that is in use
            Path(file.name).unlink()
        exchange_memory(weight, mapped.view(weight.shape))
        self._away.append((weakref.ref(weight), weight.data_ptr()))
        self.bytes = max(self.bytes, sum(_size(known()) for known, _ in self._away))
        return True

    def bring_back(self) -> None:
        """All of them are in memory again, with what others have made of them meanwhile."""
        for known, address in self._away:
            weight = known()
            if weight is not None and weight.data_ptr() == address:
                exchange_memory(weight, weight.detach().clone())
        self._away = []


def _size(weight: torch.Tensor | None) -> int:
    return 0 if weight is None else weight.numel() * weight.element_size()
