"""The energy that a block takes: processor packages by RAPL (Linux), NVIDIA GPUs by NVML, where they can be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

RAPL = Path("/sys/class/powercap")
NONE = "Energy was not measured: there is no RAPL counter that may be read here, and no NVML."


class EnergyMeter:
    """Joules between `start` and `stop`, of the whole machine: other work counts too."""

    def __init__(self, rapl: Path = RAPL) -> None:
        self._packages = [zone for zone in sorted(rapl.glob("intel-rapl:*")) if zone.name.count(":") == 1]
        self._packages = [zone for zone in self._packages if _read(zone / "energy_uj") is not None]
        self._gpus = _gpus()
        self._begun: list[float] = []

    @property
    def available(self) -> bool:
        return bool(self._packages or self._gpus)

    def start(self) -> None:
        self._begun = self._counters()

    def stop(self) -> float | None:
        """None where nothing can be read."""
        if not self.available:
            return None
        ranges = [_read(zone / "max_energy_range_uj") or 0.0 for zone in self._packages] + [0.0] * len(self._gpus)
        spent = 0.0
        for before, after, whole in zip(self._begun, self._counters(), ranges, strict=True):
            spent += after - before if after >= before else after - before + whole / 1e6  # the counter began anew
        return spent

    def _counters(self) -> list[float]:
        packages = [(_read(zone / "energy_uj") or 0.0) / 1e6 for zone in self._packages]
        return packages + [gpu() for gpu in self._gpus]


def _read(path: Path) -> float | None:
    """Counters are for root alone on many machines."""
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return None


def _gpus() -> list[Any]:
    """A function for each GPU that counts joules since the driver was loaded."""
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        for handle in handles:
            pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)  # Volta and newer
    except pynvml.NVMLError:
        return []
    return [lambda handle=handle: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3 for handle in handles]
