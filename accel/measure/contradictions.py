"""Numbers that contradict each other, side by side: no single one says whether a recipe is good."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accel.measure.results import Comparison
    from accel.measure.rows import ResultRow

ANOTHER_CLIP = 20.0  # dB of PSNR below which it is another picture, be it as good or not
CLOSE = 30.0  # dB from which it is called the same
NOTICEABLE = 0.1  # relative change of flicker, warping error or diversity that is worth a word


def contradictions(comparison: Comparison) -> list[str]:
    """A sentence for each recipe and pair of measures that point in different directions."""
    baseline, *others = comparison.rows
    shown = [row for row in others if row.kind not in ("baseline", "part")]
    return [f"{row.label}: {said}." for row in shown for said in _of(row, baseline)]


def _of(row: ResultRow, plain: ResultRow) -> Iterator[str]:
    if row.psnr is not None and row.adherence is not None and plain.adherence is not None:
        within = row.adherence_range is not None and row.adherence_range[1] >= plain.adherence
        numbers = f"{_share(row)} of the clips match their prompt, unaccelerated {_share(plain)}"
        if row.psnr < ANOTHER_CLIP and within:
            yield f"PSNR says another clip ({row.psnr:.1f} dB), but {numbers}"
        if row.psnr >= CLOSE and not within:
            yield f"PSNR says the same clip ({row.psnr:.1f} dB), but {numbers}"
    smoother, wilder = _change(row.flicker, plain.flicker), _change(row.warping_error, plain.warping_error)
    if smoother * wilder < 0.0:
        words = ("less", "more") if smoother < 0.0 else ("more", "less")
        yield (
            f"{words[0]} changes from frame to frame (flicker {row.flicker:.4f} beside {plain.flicker:.4f}), but "
            f"{words[1]} of it is no movement (warping error {row.warping_error:.4f} beside {plain.warping_error:.4f})"
        )
    if _change(row.diversity, plain.diversity) < 0.0 and (row.adherence or 0.0) > (plain.adherence or 1.0):
        yield (
            f"more clips match their prompt ({_share(row)} beside {_share(plain)}), but seeds differ less "
            f"(diversity {row.diversity:.3f} beside {plain.diversity:.3f})"
        )


def _change(ours: float | None, theirs: float | None) -> float:
    """Relative, and 0 where it is small or not known."""
    if not ours or not theirs:
        return 0.0
    change = ours / theirs - 1.0
    return change if abs(change) >= NOTICEABLE else 0.0


def _share(row: ResultRow) -> str:
    if row.adherence_range is None:
        return f"{row.adherence:.0%}"
    return f"{row.adherence:.0%} [{100 * row.adherence_range[0]:.0f}, {100 * row.adherence_range[1]:.0f}]"
