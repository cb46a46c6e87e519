"""The machine and versions that a measurement was made with."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from accel.device import device_of

OPTIONAL = ("av", "gradio", "ray", "xformers", "sageattention", "flash-attn", "torchao", "bitsandbytes", "lpips")
"""Packages that single methods and commands need."""


def environment(pipe: Any) -> dict[str, Any]:
    """Device, data type, threads, versions and date, as plain data for a report about `pipe`."""
    import torch

    device = device_of(pipe)
    return {
        "device": str(device),
        "device_name": _device_name(device),
        "dtype": str(getattr(pipe, "dtype", "")).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "diffusers": package_version("diffusers") or "unknown",
        "accel": package_version("diffusers-accel") or "unknown",
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def package_version(distribution: str) -> str:
    """The version that is installed; "" where none is."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def _device_name(device: Any) -> str:
    import torch

    module: Any = getattr(torch, device.type, None)
    if device.type != "cpu" and hasattr(module, "get_device_name"):
        return str(module.get_device_name(device))
    return _processor()


def _processor() -> str:
    """The processor's name: Linux tells it only in /proc, other systems through `platform`."""
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
