"""A calibration: what the caches need to know about one model, measured once, and what it yields."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from accel.anatomy import Anatomy, components_of, inspect, schedulers_of
from accel.caching import hub, replay, resample
from accel.caching.extrapolate import Extrapolate
from accel.caching.magcache import MagCache
from accel.caching.predictor import Predictor
from accel.caching.schedule import plan
from accel.caching.smoothcache import SmoothCache
from accel.caching.static import StaticSchedule, rules_for
from accel.caching.table import CHANGES, Array, Table, rounded, rounded_row
from accel.caching.teacache import SIGNALS, TeaCache
from accel.method import Method

# A polynomial that explains less of the output's change than this is no better than a fixed interval.
GOOD_FIT = 0.5
ENOUGH_RUNS = 10
M = TypeVar("M", bound=Method)
Plain = str | int | float | bool | None
# Settings of schedulers that do not change the noise levels of a run.
INDIFFERENT = ("clip_sample", "clip_sample_range", "thresholding", "dynamic_thresholding_ratio", "sample_max_value")


@dataclass(frozen=True)
class Key:
    """What a calibration belongs to: model, pipeline, scheduler and its settings, guidance, the call's arguments."""

    model: str
    pipeline: str
    scheduler: str
    prediction: str
    euler_steps: bool
    guidance: float | None
    prompts: int
    settings: Mapping[str, Plain] = field(default_factory=dict)
    arguments: Mapping[str, Plain] = field(default_factory=dict)


@dataclass(frozen=True)
class Calibration:
    """What `accel.caching.calibrate` measured on one model, and the caches that follow from it.

    It belongs to the model, scheduler, guidance and size that it was made with (`key`, `check`). Numbers are kept by
    noise level, one table for each denoiser, so that `resampled` makes them fit another step count or image-to-image.
    notes: what had to be left out. Print it to see how far it can be trusted.
    """

    key: Key
    tables: tuple[Table, ...]
    notes: tuple[str, ...] = ()

    @property
    def steps(self) -> int:
        """The steps of one run, of all denoisers."""
        return sum(table.steps for table in self.tables)

    @property
    def sigmas(self) -> tuple[float, ...]:
        """The noise levels of the recorded run and, last, of its end."""
        return self._run().timetable[self.tables[0].start :]

    def teacache(self, threshold: float = 0.15, signal: str = "auto", degree: int = 4, **guards: Any) -> TeaCache:
        """TeaCache with a polynomial fitted by least squares, from signal change to output change.

        signal: "auto" takes the one of TeaCache's that explains most. Each expert has its own polynomial.
        The first steps, where both move fast, take part as well; `fit_quality` says how well it fits. guards: further
        parameters of the method, such as warmup and max_skips; so in `magcache` and `smoothcache`.
        """
        signal = self._tea_signal(signal, degree)
        fits = [(table.denoiser, *self._fit(table, signal, degree)) for table in self.tables]
        if len(fits) > 1:
            return TeaCache(threshold, signal=signal, experts=tuple(fits), **guards)
        _, coefficients, span = fits[0]
        return TeaCache(threshold, coefficients=coefficients, signal=signal, fitted_range=span, **guards)

    def magcache(
        self,
        threshold: float = 0.12,
        most: int = 4,
        retention: float = 0.2,
        steps: int | None = None,
        **guards: Any,
    ) -> MagCache:
        """MagCache with the mean ratio of each step over all runs, 1 at the first step of each denoiser.

        steps: of the runs to come, where they differ from the recorded ones.
        """
        wanted = self.at(steps)
        ratios = [1.0] * (len(wanted._run().timetable) - 1)
        for table in wanted.tables:
            ratios[table.start : table.start + table.steps] = table.ratios
        return MagCache(threshold, most, retention, ratios=tuple(ratios), **guards)

    def smoothcache(self, alpha: float = 0.1, **guards: Any) -> SmoothCache:
        """SmoothCache with the recorded error curves; it may reuse as many steps in a row as `layer_lags`."""
        curves = tuple(curve for table in self.tables for curve in table.error_curves())
        if not curves:
            raise ValueError(
                "This calibration has no error curves for SmoothCache: it was recorded with layer_lags=0, or no "
                "attention or feed-forward module could be reached."
            )
        lags = max(len(row) - 1 for _, _, rows in curves for row in rows)
        return SmoothCache(alpha, curves, **{"most": max(lags, 1), **guards})

    def schedule(
        self,
        compute: float,
        steps: int | None = None,
        *,
        predictor: Predictor | None = None,
        warmup: int = 2,
        final: int = 1,
        max_skips: int = 7,
    ) -> StaticSchedule:
        """The schedule that computes the fraction `compute` of the steps with the least error in the result.

        Found by dynamic programming on the measured answers (`accel.caching.schedule`), for this predictor; experts are
        planned one by one, each with the same fraction. steps: of the runs to come.
        """
        predictor = Extrapolate() if predictor is None else predictor
        used = predictor if self.key.euler_steps else predictor.uncorrected()
        rules = rules_for(used, warmup, final, max_skips)
        chosen: list[float] = []
        for table in self.at(steps).tables:
            computes = plan(
                table.section, compute, flow="flow" in self.key.prediction, features=table.features(), rules=rules
            )
            chosen += [sigma for sigma, wanted in zip(table.sigmas, computes, strict=True) if wanted]
        return StaticSchedule(tuple(chosen), predictor=predictor, final=final)

    def threshold(self, method: M, compute: float) -> M:
        """The method, set so that it computes the fraction `compute` of the steps, or as near to it as it can be set.

        What is set is `threshold`, SmoothCache's alpha or an interval, by simulating the decisions on the recorded
        numbers, without running the model. TeaCache, MagCache and SmoothCache without constants get those of this
        calibration. What a cache then really computes differs by a few per cent, because its answers change what it
        measures.
        Raises ValueError where the method cannot be simulated, or cannot compute as little.
        """
        return replay.tuned(self._completed(method), self.tables, compute)

    def compute(self, method: Method) -> float:
        """The fraction of the steps that the method would compute, simulated: the counterpart of `threshold`."""
        return replay.fraction(self._completed(method), self.tables)

    def fit_quality(self, signal: str = "auto", degree: int = 4) -> float:
        """Share of the variance of the output's change that TeaCache's polynomial explains (R squared); of two experts
        the lower one.
        """
        signal = self._tea_signal(signal, degree)
        return min(self._explained(table, signal, degree) for table in self.tables)

    def signals(self) -> dict[str, float]:
        """Rank correlation of each signal's change with the output's change, best first, mean over the denoisers.

        1: the signal always says which of two steps changes more. Not a number where it hardly changes at all.
        """
        found = {
            name: float(np.mean([_rank_correlation(*table.pairs(name)) for table in self.tables]))
            for name in self._recorded(CHANGES)
            if name != "output"
        }
        return dict(sorted(found.items(), key=lambda entry: -entry[1] if math.isfinite(entry[1]) else 2.0))

    def resampled(self, sigmas: Sequence[float]) -> Calibration:
        """The same calibration at the noise levels of other runs: those of all their steps and, last, of the end."""
        self._run()
        return replace(self, tables=resample.resampled(self.tables, sigmas, self.key.prediction))

    def at(self, steps: int | None) -> Calibration:
        """The same calibration at another step count: the recorded noise levels, evenly thinned out or filled in.

        Timetables either end a whole step before the end (then the last noise level depends on the step count) or at
        the lowest noise level that the model knows, very near to the end.
        """
        if steps is None or steps == self.steps:
            return self
        if type(steps) is not int or steps < 2:
            raise ValueError(f"steps must be a whole number from 2, not {steps!r}.")
        *_, before, last, end = sigmas = self.sigmas
        places = np.linspace(0, self.steps, steps + 1)
        if last - end < (before - last) / 2:
            places = np.append(np.linspace(0, self.steps - 1, steps), self.steps)
        return self.resampled(np.interp(places, np.arange(len(sigmas)), sigmas).tolist())

    def check(self, pipe: Any) -> list[str]:
        """What speaks against using this calibration with a pipeline (or an anatomy), one sentence each."""
        anatomy = pipe if isinstance(pipe, Anatomy) else inspect(pipe)
        found = [sentence for table in self.tables for sentence in _misfit(table, anatomy)]
        scheduler = ", ".join(anatomy.schedulers.values())
        if scheduler != self.key.scheduler:
            found.append(f"It was calibrated with {self.key.scheduler}, and this pipeline has {scheduler}.")
        if anatomy.prediction != self.key.prediction:
            found.append(f"It was calibrated for {self.key.prediction} prediction, and this is {anatomy.prediction}.")
        if not isinstance(pipe, Anatomy) and scheduler == self.key.scheduler:
            now = scheduler_settings(pipe)
            for name in sorted(now.keys() & self.key.settings.keys()):
                if now[name] != self.key.settings[name]:
                    found.append(
                        f"It was calibrated with the scheduler's {name}={self.key.settings[name]!r}, which is now "
                        f"{now[name]!r}, so the noise levels of the steps differ."
                    )
        return found

    @property
    def quality(self) -> str:
        """What was measured, which signal is best, how well TeaCache's polynomial fits, and what is unreliable."""
        key = self.key
        lines = [f"Calibration of {key.pipeline} ({key.model or 'built in memory'}), {key.scheduler}"]
        for table in self.tables:
            low, high = min(table.sigmas), max(table.sigmas)
            lines.append(
                f"  {table.denoiser}: {table.kind}, {table.steps} steps, prompts recorded: {len(table.runs)}, "
                f"noise levels {high:.4g} to {low:.4g}"
            )
        called = {"guidance_scale": key.guidance} | dict(key.arguments)
        known = [f"{name}={value}" for name, value in called.items() if value is not None]
        lines.append("  called with " + (", ".join(known) or "its defaults"))
        ranked = [f"{name.replace('_', ' ')} {value:.2f}" for name, value in self.signals().items()]
        lines.append("  rank correlation with the output's change: " + ", ".join(ranked))
        for name in self._recorded(SIGNALS):
            lines.append(f"  TeaCache on the {name.replace('_', ' ')}: {self._fit_sentence(name)}")
        return "\n".join(lines + [f"  caution: {caution}" for caution in self.cautions()])

    def cautions(self) -> list[str]:
        """What is unreliable, one sentence each."""
        found = list(self.notes)
        runs = min(len(table.runs) for table in self.tables)
        if runs < ENOUGH_RUNS:
            found.append(
                f"recorded on {runs} prompts only: thresholds and polynomials are stable from about {ENOUGH_RUNS}"
            )
        known = self._recorded(SIGNALS)
        if not known:
            found.append("TeaCache cannot be calibrated, because this model has none of its signals")
        elif max(self._quality_or_none(name) or 0.0 for name in known) < GOOD_FIT:
            found.append("TeaCache's polynomial hardly explains the output: prefer a schedule or another cache")
        if not any(table.curves for table in self.tables):
            found.append("SmoothCache cannot be calibrated, because no error curves were recorded")
        if not any(run.drifts for table in self.tables for run in table.runs):
            found.append("FirstBlockCache and DiCache cannot be simulated, because there is no first block to probe")
        return found

    def __str__(self) -> str:
        return self.quality

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the calibration as JSON, whole or not at all."""
        hub.save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """Reads a calibration file. Raises ValueError, naming the field, for one that is missing or malformed."""
        return hub.load(path)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Writes `accel_calibration.json` into a folder, such as that of the model."""
        hub.save(self, os.path.join(folder, hub.FILE))

    @classmethod
    def from_pretrained(cls, folder_or_repository: str | os.PathLike[str], **hub_arguments: Any) -> Calibration:
        """Reads `accel_calibration.json` from a folder, or from a repository on the Hugging Face hub.

        hub_arguments: go to `huggingface_hub.hf_hub_download` (revision, token, cache_dir ...).
        """
        return hub.from_pretrained(folder_or_repository, **hub_arguments)

    def push_to_hub(self, repository: str, **hub_arguments: Any) -> str:
        """Uploads `accel_calibration.json`, making the repository where there is none; returns its address.

        hub_arguments: token and private, and what `huggingface_hub.HfApi.upload_file` takes (revision, create_pr ...).
        """
        return hub.push(self, repository, **hub_arguments)

    def _run(self) -> Table:
        """Any table, once it is known that all of them are parts of one run."""
        if len({table.timetable for table in self.tables}) > 1:
            names = ", ".join(table.denoiser for table in self.tables)
            raise ValueError(f"This calibration holds several runs with noise levels of their own ({names}).")
        return self.tables[0]

    def _completed(self, method: M) -> M:
        """With the constants of this calibration, where the method has none of its own."""
        bare: Any = method
        if isinstance(method, TeaCache) and not (method.coefficients or method.experts or method.model):
            fitted = self.teacache(signal=method.signal)
            bare = replace(
                method, signal=fitted.signal, coefficients=fitted.coefficients, fitted_range=fitted.fitted_range,
                experts=fitted.experts,
            )  # fmt: skip
        elif isinstance(method, MagCache) and not (method.ratios or method.model):
            bare = replace(method, ratios=self.magcache().ratios)
        elif isinstance(method, SmoothCache) and not method.errors:
            bare = replace(method, errors=self.smoothcache().errors)
        complete: M = bare
        return complete

    def _recorded(self, names: Iterable[str]) -> list[str]:
        """The signals that every denoiser has."""
        return [name for name in names if all(len(table.pairs(name)[0]) for table in self.tables)]

    def _tea_signal(self, signal: str, degree: int) -> str:
        if signal not in ("auto", *SIGNALS):
            raise ValueError(f"The signal must be one of auto, {', '.join(SIGNALS)}, not {signal!r}.")
        known = self._recorded(SIGNALS)
        if signal == "auto" and known:
            return max(known, key=lambda name: self._quality_or_none(name, degree) or 0.0)
        if signal not in known:
            what = "signal for TeaCache" if signal == "auto" else signal.replace("_", " ")
            raise ValueError(f"The calibration has no {what}: this model has no such module.")
        return signal

    def _fit(self, table: Table, signal: str, degree: int) -> tuple[tuple[float, ...], tuple[float, float]]:
        """Coefficients, highest power first, and the range that they were fitted on."""
        x, y = table.pairs(signal)
        if len(np.unique(x)) <= degree:
            raise ValueError(
                f"A polynomial of degree {degree} needs more than {degree} different changes of the "
                f"{signal.replace('_', ' ')}, and {len(np.unique(x))} were recorded; take a lower degree or more steps."
            )
        coefficients = np.polynomial.Polynomial.fit(x, y, degree).convert().coef
        padded = [*coefficients.tolist(), *[0.0] * (degree + 1 - len(coefficients))]
        return rounded_row(padded[::-1], 9), (rounded(float(x.min()), 6), rounded(float(x.max()), 6))

    def _explained(self, table: Table, signal: str, degree: int) -> float:
        x, y = table.pairs(signal)
        coefficients, _ = self._fit(table, signal, degree)
        residual = y - np.polyval(coefficients, x)
        return float(1.0 - residual.var() / max(float(y.var()), 1e-30))

    def _quality_or_none(self, signal: str, degree: int = 4) -> float | None:
        """None where there are too few steps for such a polynomial."""
        try:
            return self.fit_quality(signal, degree)
        except ValueError:
            return None

    def _fit_sentence(self, signal: str) -> str:
        quality = self._quality_or_none(signal)
        return "too few different steps for a polynomial" if quality is None else f"R² {quality:.2f}"


def scheduler_settings(pipe: Any) -> dict[str, Plain]:
    """What the pipeline's schedulers are set to, as far as it decides the noise levels of a run."""
    return {
        name: value
        for _, scheduler in schedulers_of(components_of(pipe))
        for name, value in dict(scheduler.config).items()
        if is_plain(value) and not name.startswith("_") and name not in INDIFFERENT
    }


def is_plain(value: object) -> bool:
    """Whether a value can stand in a JSON file as it is."""
    return value is None or isinstance(value, (str, int, bool)) or (isinstance(value, float) and math.isfinite(value))


def _misfit(table: Table, anatomy: Anatomy) -> list[str]:
    part = anatomy.denoisers.get(table.denoiser)
    if part is None:
        return [f"It was calibrated on a {table.denoiser}, and this pipeline has {', '.join(anatomy.denoisers)}."]
    if part.kind != table.kind:
        return [f"It was calibrated on {table.kind}, and this pipeline's {table.denoiser} is {part.kind}."]
    if part.parameters != table.parameters:
        sizes = f"{table.parameters / 1e6:.4g} M parameters, and this one has {part.parameters / 1e6:.4g} M"
        return [f"It was calibrated on a {table.kind} of {sizes}."]
    return []


def _rank_correlation(x: Array, y: Array) -> float:
    """Spearman's; not a number where one of them does not vary."""
    if len(x) < 2 or x.min() == x.max() or y.min() == y.max():
        return math.nan
    return float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])


def _ranks(values: Array) -> Array:
    """Equal values share the mean of their ranks."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[places])
