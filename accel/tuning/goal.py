"""The user's goal, and whether measured clips are enough to promise it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import fmean, stdev
from typing import Any

from accel.measure.metrics import Clip, psnr, ssim
from accel.measure.output import METRICS, OF_FRAMES, Metric, PipelineOutput
from accel.measure.sound_metrics import snr

# A promise is kept where a prompt falls short by no more than this.
SLACK = {"psnr": 1.0, "ssim": 0.01, "lpips": 0.01, "snr": 1.0}
# How sure a promise about unseen prompts must be, given those that were measured.
CONFIDENCE = 0.75


@dataclass(frozen=True)
class Bound:
    """A metric and what it must reach on almost every prompt: `least` or `most`, one of the two.

    function: (candidate, unaccelerated) -> number, both clips float32 (frames, height, width, 3) in [0, 1], or sounds
        float32 (samples, channels) of a pipeline that makes sound alone, or for a metric of sound by its own name.
    slack: by how much a single prompt may miss it.
    """

    name: str
    function: Metric
    least: float | None = None
    most: float | None = None
    slack: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name or not callable(self.function):
            raise TypeError(f"a Bound has the name of a metric and its function, not {self.name!r}, {self.function!r}.")
        if self.function is not METRICS.get(self.name, self.function):
            raise ValueError(f"{self.name} is a metric that accel measures itself; give yours another name.")
        if not _finite(self.slack) or self.slack < 0.0:
            raise ValueError(f"the slack of the bound on {self.name} must be a number from 0, not {self.slack!r}.")
        limits = [limit for limit in (self.least, self.most) if limit is not None]
        if len(limits) != 1 or not _finite(limits[0]):
            raise ValueError(
                f"the bound on {self.name} needs one number, least=... or most=..., not {limits or 'none'}."
            )

    @property
    def limit(self) -> float:
        return self.least if self.least is not None else float(self.most or 0.0)

    @property
    def sign(self) -> float:
        """1 where more is better, -1 where less is."""
        return 1.0 if self.least is not None else -1.0

    def margin(self, values: Sequence[float], coverage: float) -> float:
        """By how much the promise is kept (below 0: broken), in units of the metric.

        The promise is that `coverage` of all prompts stay within `slack` of the limit. It is judged by the one-sided
        tolerance limit of a normal distribution, mean - k standard deviations, so that few or scattered measurements
        promise less; and of the measured prompts no greater share may break it. One measurement counts by itself.
        """
        good = sorted(self.sign * (value - self.limit) + self.slack for value in values)
        if len(good) < 2:
            return good[0] if good else -math.inf
        kept = good[may_break(len(good), coverage)]
        return min(kept, fmean(good) - tolerance_factor(len(good), coverage) * stdev(good))

    def promise_of(self, values: Sequence[float], coverage: float) -> float:
        """The strictest limit that these values would keep."""
        return self.limit + self.sign * self.margin(values, coverage)

    def __str__(self) -> str:
        return f"{self.name.upper()} {'at least' if self.least is not None else 'at most'} {self.limit:g}"


@dataclass(frozen=True)
class TuningGoal:
    """Either bounds on quality, to be met as fast as possible, or a speed, to be met as faithfully as possible.

    leading: the metric in decibels that the search predicts by, "psnr" of frames or "snr" of sound.
    """

    bounds: tuple[Bound, ...] = ()
    speedup: float | None = None
    coverage: float = 0.95
    leading: str = "psnr"

    def __post_init__(self) -> None:
        if bool(self.bounds) == (self.speedup is not None):
            raise ValueError(
                "say either what quality is needed (min_psnr, min_ssim, max_lpips or bounds), to get the fastest "
                "recipe with it, or target_speedup, to get the most faithful one."
            )
        if self.speedup is not None and not (_finite(self.speedup) and 1.0 < self.speedup <= 100.0):
            raise ValueError(f"target_speedup must be a number above 1, such as 2.0, not {self.speedup!r}.")
        if not (_finite(self.coverage) and 0.5 <= self.coverage < 1.0):
            raise ValueError(f"coverage is a share of the prompts from 0.5 to below 1, not {self.coverage!r}.")

    @property
    def allows_another_picture(self) -> bool:
        """Whether all bounds are on metrics of the user's own, which need not ask for the unaccelerated picture."""
        return bool(self.bounds) and not any(bound.name in SLACK for bound in self.bounds)

    @property
    def metrics(self) -> dict[str, Metric]:
        """Everything to be measured; the leading one always, because the search predicts by it."""
        return {self.leading: METRICS[self.leading]} | {bound.name: bound.function for bound in self.bounds}

    def margin(self, measured: Mapping[str, Sequence[float]]) -> float:
        """The smallest margin of all bounds, each in units of its slack; without bounds the mean of the leading one."""
        if not self.bounds:
            return fmean(measured[self.leading])
        return min(
            bound.margin(measured[bound.name], self.coverage) / (bound.slack or abs(bound.limit) or 1.0)
            for bound in self.bounds
        )

    def of(self, made: PipelineOutput, pipeline: str) -> TuningGoal:
        """The same goal for a pipeline that makes such outputs. Raises ValueError for a bound that they cannot have."""
        for bound in self.bounds:
            if bound.name in METRICS and (made.frames if bound.name in OF_FRAMES else made.sound) is None:
                has, other = ("sound", "min_snr") if made.frames is None else ("no sound", "min_psnr")
                raise ValueError(f"{pipeline} makes {has}, which has no {bound.name.upper()}; give {other}.")
        return replace(self, leading=made.leading)

    def to_dict(self) -> dict[str, Any]:
        bounds = [{"metric": b.name, "least": b.least, "most": b.most, "slack": b.slack} for b in self.bounds]
        return {"bounds": bounds, "speedup": self.speedup, "coverage": self.coverage}

    def __str__(self) -> str:
        if self.speedup is not None:
            return f"{self.speedup:g}x"
        return " and ".join(map(str, self.bounds))


def goal_of(
    min_psnr: float | None,
    min_ssim: float | None,
    max_lpips: float | None,
    bounds: Sequence[Bound],
    target_speedup: float | None,
    coverage: float,
    min_snr: float | None = None,
) -> TuningGoal:
    """The goal from the arguments of `accel.tune`. Raises ValueError for contradictions and impossible numbers."""
    found = list(bounds)
    if not all(isinstance(bound, Bound) for bound in found):
        raise TypeError(f"bounds must be a list of accel.tuning.Bound objects, not {bounds!r}.")
    if min_psnr is not None:
        _check("min_psnr", min_psnr, 0.0, 100.0)
        found.append(Bound("psnr", psnr, least=min_psnr, slack=SLACK["psnr"]))
    if min_ssim is not None:
        _check("min_ssim", min_ssim, 0.0, 1.0)
        found.append(Bound("ssim", ssim, least=min_ssim, slack=SLACK["ssim"]))
    if max_lpips is not None:
        _check("max_lpips", max_lpips, 0.0, 2.0)
        found.append(Bound("lpips", _lpips(), most=max_lpips, slack=SLACK["lpips"]))
    if min_snr is not None:
        _check("min_snr", min_snr, -100.0, 100.0)
        found.append(Bound("snr", snr, least=min_snr, slack=SLACK["snr"]))
    names = [bound.name for bound in found]
    if len(set(names)) < len(names):
        raise ValueError(f"two bounds are on the same metric ({', '.join(names)}); keep the stricter one.")
    return TuningGoal(tuple(found), target_speedup, coverage)


def may_break(count: int, coverage: float) -> int:
    """How many of so many prompts may break a promise about this share of them."""
    return math.floor(count * (1.0 - coverage) + 1e-9)


@lru_cache(maxsize=128)
def tolerance_factor(count: int, coverage: float) -> float:
    """k such that mean - k standard deviations of `count` normal values is below `coverage` of the distribution, with
    the confidence `CONFIDENCE` (the noncentral t distribution; ISO 16269-6)."""
    from scipy.stats import nct, norm

    shift = float(norm.ppf(coverage)) * math.sqrt(count)
    return float(nct.ppf(CONFIDENCE, count - 1, shift)) / math.sqrt(count)


def _lpips() -> Metric:
    """LPIPS with AlexNet, mean over the frames. Its weights are a file of torchvision's."""
    try:
        import lpips
    except ImportError:
        raise ValueError("max_lpips needs the package lpips and its weights: pip install lpips.") from None
    import torch

    network = lpips.LPIPS(net="alex", verbose=False)

    def measure(candidate: Clip, reference: Clip) -> float:
        one, other = (torch.from_numpy(clip).permute(0, 3, 1, 2) * 2 - 1 for clip in (candidate, reference))
        with torch.no_grad():
            return float(network(one, other).mean())

    return measure


def _check(name: str, value: object, low: float, high: float) -> None:
    if not _finite(value) or not low < float(value) <= high:  # type: ignore[arg-type]
        raise ValueError(f"{name} must be a number above {low:g} and at most {high:g}, not {value!r}.")


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
