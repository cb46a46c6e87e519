"""When the device runs out of memory: telling it apart from other errors, and decoding in tiles where that is
offered."""

from __future__ import annotations

import gc
from contextlib import AbstractContextManager
from typing import Any

import torch

from accel.patch import undo_later

_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device ran out of memory; not every library has a class for it."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS)


def free_memory() -> None:
    """Returns what nobody uses any more, once the error that held the tensors is gone."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def can_tile(pipe: Any) -> bool:
    """Whether the autoencoder offers tiles and does not use them yet."""
    vae = getattr(pipe, "vae", None)
    tiles = hasattr(vae, "enable_tiling") and hasattr(vae, "disable_tiling")
    return tiles and not getattr(vae, "use_tiling", False)


def use_tiling(pipe: Any) -> AbstractContextManager[None]:
    """Decodes in tiles for the duration of the block. The result differs slightly at the seams."""
    return undo_later(pipe.vae, pipe.vae.enable_tiling)


def device_answers(device: torch.device) -> bool:
    """Whether the device still works. An illegal memory access, for one, breaks CUDA for the rest of the process."""
    try:
        torch.zeros(1, device=device).add_(1).item()
    except RuntimeError as error:
        return is_out_of_memory(error)
    return True
