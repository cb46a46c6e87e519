"""AdaCache: how long all module outputs are reused follows from how fast one in the middle changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

from accel.anatomy import Anatomy
from accel.caching.module_reuse import BOUNDARY, ReuseMethod, ReusePolicy, require
from accel.caching.modules import KINDS
from accel.clock import StepContext
from accel.method import finite_numbers, setting

FAST = (0.08, 6.0, 0.16, 5.0, 0.24, 4.0, 0.32, 3.0, 0.40, 2.0)


@dataclass(frozen=True)
class AdaCache(ReuseMethod):
    """Reuses every attention and feed-forward output for a number of steps that is looked up from the measured change.

    Source: AdaCache (arXiv 2411.02397), section 3.2. At each computed step one attention in the middle (along time if
    there is one) is compared with its output at the computed step before: c = |old - new| / |old| (1-norm, the sample
    that changed most) / steps in between. codebook: pairs of (bound, steps) in one row, in rising order; the first
    bound above c says how many steps until the next computed one, and `otherwise` where none is. The default is the
    paper's fast one for 30 steps; slow is (0.08, 3, 0.16, 2); for 100 steps (0.03, 12, 0.05, 10, 0.07, 8, 0.09, 6,
    0.11, 4) with otherwise 3. The first step and the last two compute.
    The paper's motion regularisation, which lowers the rates of clips with much motion, is not included.
    Memory: one output of every module and stream. One host sync in every computed step. On several GPUs the largest
    change of any decides for all. Not where the output should stay near the unaccelerated one, nor where memory is
    short: a cache at the denoiser's boundary gives more of both.
    """

    advice = "the change was above all bounds that allow reuse: raise them"

    codebook: tuple[float, ...] = FAST
    otherwise: int = setting(
        1, 1, 1000, "steps until the next computed one where the change is above all bounds", dial=True
    )
    _: KW_ONLY
    final: int = setting(2, 0, 1000, "last steps that compute everything")

    def __post_init__(self) -> None:
        super().__post_init__()
        bounds, rates = self.codebook[::2], self.codebook[1::2]
        fine = finite_numbers(self.codebook) and len(bounds) == len(rates) and list(bounds) == sorted(bounds)
        if not fine or any(rate < 1 or rate != int(rate) for rate in rates):
            raise ValueError(
                f"AdaCache.codebook must be pairs of a bound and a whole number of steps in one tuple, bounds rising, "
                f"such as (0.08, 3, 0.16, 2), not {self.codebook!r}."
            )

    def kinds(self) -> frozenset[str]:
        return frozenset(KINDS) if max(self.otherwise, *self.codebook[1::2], 1) > 1 else frozenset()

    def policy(self, anatomy: Anatomy, denoiser: str) -> ReusePolicy:
        kinds = require("AdaCache", anatomy, denoiser, KINDS, BOUNDARY)
        modules = anatomy.denoisers[denoiser].modules
        measured = next(kind for kind in ("temporal_attention", *KINDS) if kind in kinds)
        paths = modules[measured]
        return RatePolicy(self.codebook, self.otherwise, kinds, paths[len(paths) // 2])


class RatePolicy:
    """Reuses everything until the step that the last measured change allows."""

    def __init__(self, codebook: Sequence[float], otherwise: int, kinds: frozenset[str], probe: str | None) -> None:
        self.codebook, self.otherwise, self.kinds, self.probe = codebook, otherwise, kinds, probe
        self._computed: int | None = None
        self._rate = 1

    def kinds_to_reuse(self, context: StepContext) -> frozenset[str]:
        due = self._computed is None or context.step >= self._computed + self._rate
        return frozenset() if due else self.kinds

    def after_step(self, context: StepContext, reused: frozenset[str], change: float | None) -> None:
        if reused:
            return
        if change is None or self._computed is None:
            self._rate = 1
        else:
            self._rate = self.rate(change / max(context.step - self._computed, 1))
        self._computed = context.step

    def rate(self, change: float) -> int:
        """Steps until the next computed one, for the change per step."""
        pairs = zip(self.codebook[::2], self.codebook[1::2], strict=True)
        return int(next((steps for bound, steps in pairs if change < bound), self.otherwise))
