"""A calibration in words: what was measured, which signal is best, and how far it can be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from accel.caching.cache_method import Cache
from accel.method import Method

if TYPE_CHECKING:
    from accel.caching.calibration.calibration import Calibration

ENOUGH_RUNS = 10


def text_of(calibration: Calibration) -> str:
    """See `Calibration.quality`."""
    key = calibration.key
    lines = [f"Calibration of {key.pipeline} ({key.model or 'built in memory'}), {key.scheduler}"]
    for table in calibration.tables:
        low, high = min(table.sigmas), max(table.sigmas)
        lines.append(
            f"  {table.denoiser}: {table.kind}, {table.steps} steps, prompts recorded: {len(table.runs)}, "
            f"noise levels {high:.4g} to {low:.4g}"
        )
    called = {"guidance_scale": key.guidance} | dict(key.arguments)
    known = [f"{name}={value}" for name, value in called.items() if value is not None]
    lines.append("  called with " + (", ".join(known) or "its defaults"))
    ranked = [f"{name.replace('_', ' ')} {value:.2f}" for name, value in calibration.signals().items()]
    lines.append("  rank correlation with the output's change: " + ", ".join(ranked))
    lines += [f"  {remark}" for kind in _caches() for remark in kind.remarks(calibration)]
    return "\n".join(lines + [f"  caution: {caution}" for caution in calibration.cautions()])


def cautions_of(calibration: Calibration) -> list[str]:
    """See `Calibration.cautions`."""
    found = list(calibration.notes)
    runs = min(len(table.runs) for table in calibration.tables)
    if runs < ENOUGH_RUNS:
        found.append(f"recorded on {runs} prompts only: thresholds and polynomials are stable from about {ENOUGH_RUNS}")
    return found + [caution for kind in _caches() for caution in kind.cautions(calibration)]


def _caches() -> list[type[Cache]]:
    return [kind for kind in Method.registry["cache"].values() if issubclass(kind, Cache)]
