"""What the tuner believes about quality and time: simulated numbers, scaled by factors learned from real runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from accel.tuning.simulate import Estimate
from accel.tuning.space import Candidate

Array = NDArray[np.float64]

# Natural logarithm of squared error in pixels (0..1) for one unit of a lever's simulated error, and how far it may be
# off. Simulated errors of caches and guidance are of latents of unit variance; the pocket models have 0.005 to 0.01.
FACTORS: dict[str, tuple[float, float]] = {
    "cache": (math.log(0.008), 1.2),
    "guidance": (math.log(0.008), 1.2),
    "attention": (math.log(1e-4), 2.0),
    "sampler": (math.log(1.5e-4), 2.0),
    "precision": (math.log(3e-5), 1.5),  # 45 dB
    "resolution": (math.log(0.05), 1.5),  # 13 dB: another picture
}
IN_PIXELS: dict[str, float] = {"psnr": 1.0, "snr": 125.0}
"""By the leading metric, its squared error over that in pixels: a noise of 0.008 in the latents of unit variance is as
much of a sound's power as of its latents'."""
STRUCTURE_SPREAD = 0.4  # of a structure's own factor: errors that do not simply add
PROMPT_SPREAD = 0.7  # of a prompt's factor
NOISE = 0.4
SPEED_SPREAD = 0.25  # of the factors on time
DECIBEL = 10.0 / math.log(10.0)  # of one unit of a natural logarithm


@dataclass(frozen=True)
class Observation:
    """One real run: the candidate, the clip's number, squared error in pixels, and the time and the evaluations that it
    took, both over the unaccelerated run's.
    """

    candidate: Candidate
    clip: int
    squared_error: float
    time: float
    evaluations: float


@dataclass(frozen=True)
class Belief:
    """About one candidate on prompts yet unseen: the mean of the leading metric in dB, the spread of this belief, the
    scatter of single prompts around that mean, and speed-up.
    """

    decibels: float
    doubt: float
    scatter: float
    speedup: float


class TimeFactors(NamedTuple):
    """What a method makes of the seconds of an evaluation, and of those of text encoders and decoder."""

    denoise: float = 1.0
    around: float = 1.0


@dataclass
class Surrogate:
    """Errors of levers add up: error = sum of factor x simulated error, times what is this structure's and this
    prompt's own. Time is fixed + evaluations, each times a factor for each method: it is that of the whole call.

    Factors are the most probable ones given the runs (Gauss-Newton on logarithms), starting from `FACTORS`, those on
    time from what short runs have told of a method.
    fixed: share of the unaccelerated time that is not denoising. scale: of squared errors, see `IN_PIXELS`.
    """

    fixed: float
    scale: float = 1.0
    told: Mapping[str, TimeFactors] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.factors: dict[str, tuple[float, float]] = {}
        self._structures: dict[str, tuple[float, float]] = {}
        self.clips: dict[int, float] = {}  # by how many dB each clip seen is better than the mean
        self.times: dict[str, float] = {}
        self.scatter = PROMPT_SPREAD

    def fit(self, seen: Sequence[tuple[Observation, Estimate]]) -> None:
        """Learns from all runs so far."""
        if not seen:
            return
        self._fit_errors(seen)
        self._fit_times(seen)

    def believe(self, candidate: Candidate, outlook: Estimate, evaluations: float | None = None) -> Belief:
        """What to expect of a candidate; `evaluations` are those that it really makes, once that is known."""
        parts = {name: self._factor(name) for name in candidate.structure.names()}
        errors = {name: math.exp(parts[name][0]) * _error(outlook, name) for name in parts}
        total = sum(errors.values()) + 1e-10
        own, own_spread = self._structures.get(str(candidate.structure), (0.0, STRUCTURE_SPREAD))
        doubt = math.hypot(own_spread, *(errors[name] / total * parts[name][1] for name in parts))
        time = math.exp(sum(self.times.get(name, self._told(name)) for name in parts))
        return Belief(
            decibels=min(-DECIBEL * (math.log(total) + own), 100.0),
            doubt=DECIBEL * doubt,
            scatter=DECIBEL * self.scatter,
            speedup=1.0 / (self._around(parts) + (1.0 - self.fixed) * (evaluations or outlook.evaluations) * time),
        )

    def _told(self, name: str) -> float:
        """The logarithm of a method's factor on an evaluation, before it has run for the search."""
        return math.log(max(self.told.get(name, TimeFactors()).denoise, 1e-3))

    def _around(self, names: Iterable[str]) -> float:
        """The time of all but denoising, over the unaccelerated run's."""
        return self.fixed * math.prod(self.told[name].around for name in names if name in self.told)

    def _factor(self, name: str) -> tuple[float, float]:
        return self.factors.get(name) or self._prior(name)

    def _prior(self, name: str) -> tuple[float, float]:
        mean, spread = FACTORS[_lever(name)]
        return mean + math.log(self.scale), spread

    def _fit_errors(self, seen: Sequence[tuple[Observation, Estimate]]) -> None:
        names = sorted({name for run, _ in seen for name in run.candidate.structure.names()})
        structures = sorted({str(run.candidate.structure) for run, _ in seen})
        clips = sorted({run.clip for run, _ in seen})
        priors = [self._prior(name) for name in names]
        means = np.array([mean for mean, _ in priors] + [0.0] * (len(structures) + len(clips)))
        spreads = np.array(
            [spread for _, spread in priors] + [STRUCTURE_SPREAD] * len(structures) + [PROMPT_SPREAD] * len(clips)
        )
        design = [
            (
                [(names.index(name), _error(outlook, name)) for name in run.candidate.structure.names()],
                len(names) + structures.index(str(run.candidate.structure)),
                len(names) + len(structures) + clips.index(run.clip),
                math.log(max(run.squared_error, 1e-10)),
            )
            for run, outlook in seen
        ]
        values, covariance, residuals = _most_probable(design, means, spreads)
        deviations = np.sqrt(np.diag(covariance))
        pairs = list(zip(values.tolist(), deviations.tolist(), strict=True))
        self.factors = dict(zip(names, pairs, strict=False))
        self._structures = dict(zip(structures, pairs[len(names) :], strict=False))
        found = values[len(names) + len(structures) :]
        self.clips = {clip: -DECIBEL * float(value) for clip, value in zip(clips, found, strict=True)}
        # A few clips say little about how much clips differ: what was assumed counts as four of them.
        between = (4 * PROMPT_SPREAD**2 + float(np.sum(found**2))) / (4 + len(found))
        within = (4 * NOISE**2 + float(np.sum(residuals**2))) / (4 + len(residuals))
        self.scatter = math.sqrt(between + within)

    def _fit_times(self, seen: Sequence[tuple[Observation, Estimate]]) -> None:
        """Ridge regression of log time over what the number of evaluations, and short runs, say."""
        names = sorted({name for run, _ in seen for name in run.candidate.structure.names()})
        rows, wanted = np.zeros((len(seen), len(names))), np.zeros(len(seen))
        prior = np.array([self._told(name) for name in names])
        for row, (run, _) in enumerate(seen):
            for name in run.candidate.structure.names():
                rows[row, names.index(name)] = 1.0
            expected = (1.0 - self.fixed) * run.evaluations
            around = self._around(run.candidate.structure.names())
            wanted[row] = math.log(max(run.time - around, 1e-3) / max(expected, 1e-6)) - rows[row] @ prior
        ridge = np.eye(len(names)) * (0.1 / SPEED_SPREAD) ** 2
        found = np.linalg.solve(rows.T @ rows + ridge, rows.T @ wanted)
        self.times = dict(zip(names, (prior + found).tolist(), strict=True))


def _error(outlook: Estimate, name: str) -> float:
    return outlook.errors.get(_lever(name), 0.0)


def _lever(name: str) -> str:
    """Of a name of `Structure.names`."""
    return name.split(" ")[0]


def _most_probable(design: Sequence[Any], means: Array, spreads: Array) -> tuple[Array, Array, Array]:
    """Values, their covariance and the residuals of the runs, by Gauss-Newton steps from the prior means."""
    values = means.copy()
    precision = np.diag(1.0 / spreads**2)
    for _ in range(12):
        jacobian, residuals = _linearised(design, values)
        normal = jacobian.T @ jacobian / NOISE**2 + precision
        step = np.linalg.solve(normal, jacobian.T @ residuals / NOISE**2 + precision @ (means - values))
        values = values + np.clip(step, -2.0, 2.0)
    jacobian, residuals = _linearised(design, values)
    covariance: Array = np.asarray(np.linalg.inv(jacobian.T @ jacobian / NOISE**2 + precision), np.float64)
    return values, covariance, residuals


def _linearised(design: Sequence[Any], values: Array) -> tuple[Array, Array]:
    jacobian, residuals = np.zeros((len(design), len(values))), np.zeros(len(design))
    for row, (terms, structure, clip, observed) in enumerate(design):
        parts = [math.exp(values[index]) * error for index, error in terms]
        total = sum(parts) + 1e-10
        for (index, _), part in zip(terms, parts, strict=True):
            jacobian[row, index] += part / total
        jacobian[row, structure] = jacobian[row, clip] = 1.0
        residuals[row] = observed - math.log(total) - values[structure] - values[clip]
    return jacobian, residuals
