"""The device that a pipeline computes on: where it is, when it is done, and the most memory that was in use."""

from __future__ import annotations

from typing import Any

import torch


def device_of(pipe: Any) -> torch.device:
    """Where the pipeline computes. diffusers looks through all modules for this, which takes milliseconds: ask once."""
    return torch.device(getattr(pipe, "_execution_device", None) or getattr(pipe, "device", None) or "cpu")


def synchronize(device: torch.device) -> None:
    """Waits until the device has done what was asked of it."""
    if (backend := _backend(device)) is not None:
        backend.synchronize()


def reset_peak(device: torch.device) -> None:
    """Begins `peak` anew."""
    backend = _backend(device)
    if hasattr(backend, "reset_peak_memory_stats"):
        backend.reset_peak_memory_stats()


def peak(device: torch.device) -> int | None:
    """The most bytes in use since :func:`reset_peak`; None where nobody counts (on the CPU)."""
    backend = _backend(device)
    return int(backend.max_memory_allocated()) if hasattr(backend, "max_memory_allocated") else None


def _backend(device: torch.device) -> Any:
    """torch.cuda, torch.xpu, torch.mps …; None on the CPU, whose work is done when a call returns."""
    return None if device.type in ("cpu", "meta") else getattr(torch, device.type, None)
