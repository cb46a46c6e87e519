"""Least squares for a few columns and any number of rows, which arrive in parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from accel.parametrization import Array

# Of each column's own size: it decides only where columns say the same.
RIDGE = 1e-6


@dataclass(frozen=True)
class SumEquations:
    """The normal equations of a target as a weighted sum of outputs, newest first.

    What is solved for is what the sum has beyond the newest, in terms of that and of the differences from one to the
    next: outputs resemble each other, and it is their differences that count.
    """

    gram: Array  # (K, K)
    right: Array  # (K,)

    @classmethod
    def of(cls, outputs: Sequence[torch.Tensor], target: torch.Tensor) -> SumEquations:
        """From elements of the outputs and of the target, all (B, E)."""
        rows = [output.double().flatten() for output in outputs]
        columns = torch.stack([rows[0], *(newer - older for newer, older in pairwise(rows))])
        beyond = target.double().flatten() - rows[0]
        return cls((columns @ columns.T).cpu().numpy(), (columns @ beyond).cpu().numpy())

    def __add__(self, other: SumEquations) -> SumEquations:
        return SumEquations(self.gram + other.gram, self.right + other.right)

    def weights(self) -> tuple[float, ...]:
        """Of each output, newest first; of the newest alone where the columns say nothing."""
        sizes = np.diag(self.gram)
        ridge = np.diag(RIDGE * sizes + np.where(sizes > 0.0, 0.0, 1.0))
        found = np.linalg.solve(self.gram + ridge, self.right)
        steps = np.append(found[1:], 0.0)
        shares = np.append(1.0 + found[0] + steps[0], steps[1:] - steps[:-1])
        return tuple(shares.tolist())
