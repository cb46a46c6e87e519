"""How far the output moves, as a polynomial of how far a signal moves: fitted to what a calibration recorded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from accel.caching.calibration.table import StepTable, round_row, round_value


def fit(table: StepTable, signal: str, degree: int) -> tuple[tuple[float, ...], tuple[float, float]]:
    """Coefficients by least squares, highest power first, and the range that they were fitted on.

    Raises ValueError where too few different changes were recorded.
    """
    x, y = table.pairs(signal)
    if len(np.unique(x)) <= degree:
        raise ValueError(
            f"A polynomial of degree {degree} needs more than {degree} different changes of the "
            f"{signal.replace('_', ' ')}, and {len(np.unique(x))} were recorded; take a lower degree or more steps."
        )
    coefficients = np.polynomial.Polynomial.fit(x, y, degree).convert().coef
    padded = [*coefficients.tolist(), *[0.0] * (degree + 1 - len(coefficients))]
    return round_row(padded[::-1], 9), (round_value(float(x.min()), 6), round_value(float(x.max()), 6))


def explained(tables: Sequence[StepTable], signal: str, degree: int) -> float:
    """Share of the variance of the output's change that the polynomial explains (R squared); of two experts the lower
    one. Raises ValueError as `fit` does.
    """
    shares = []
    for table in tables:
        x, y = table.pairs(signal)
        residual = y - np.polyval(fit(table, signal, degree)[0], x)
        shares.append(float(1.0 - residual.var() / max(float(y.var()), 1e-30)))
    return min(shares)


def explained_or_none(tables: Sequence[StepTable], signal: str, degree: int = 4) -> float | None:
    """None where there are too few steps for such a polynomial."""
    try:
        return explained(tables, signal, degree)
    except ValueError:
        return None
