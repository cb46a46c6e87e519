"""A calibration: what the caches need to know about one model, measured once, and what it yields."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self, TypeVar

import numpy as np

from accel.anatomy import Anatomy, inspect
from accel.caching.cache_method import Cache
from accel.caching.calibration import files, polynomial_fit, resample, simulate, summary
from accel.caching.calibration.key import Key, changed_settings, denoiser_misfit
from accel.caching.calibration.ranks import rank_correlation
from accel.caching.calibration.table import StepTable
from accel.caching.extrapolate import Extrapolate
from accel.caching.methods.schedules import StaticSchedule, rules_for
from accel.caching.planning import plan_steps
from accel.caching.predictor import Predictor
from accel.caching.signal import TIME_SIGNALS
from accel.method import Method

C = TypeVar("C", bound=Cache)


@dataclass(frozen=True)
class Calibration:
    """What `accel.caching.calibrate` measured on one model, and the caches that follow from it.

    It belongs to the model, scheduler, guidance and size that it was made with (`key`, `check`). Numbers are kept by
    noise level, one table for each denoiser, so that `resample` makes them fit another step count or image-to-image.
    notes: what had to be left out. Print it to see how far it can be trusted.
    """

    key: Key
    tables: tuple[StepTable, ...]
    notes: tuple[str, ...] = ()

    @property
    def steps(self) -> int:
        """The steps of one run, of all denoisers."""
        return sum(table.steps for table in self.tables)

    @property
    def timetable(self) -> tuple[float, ...]:
        """The noise levels of the whole run, from its first step on the scheduler's list, and of its end.

        Raises ValueError where the tables are of several runs.
        """
        if len({table.timetable for table in self.tables}) > 1:
            names = ", ".join(table.denoiser for table in self.tables)
            raise ValueError(f"This calibration holds several runs with noise levels of their own ({names}).")
        return self.tables[0].timetable

    @property
    def sigmas(self) -> tuple[float, ...]:
        """The noise levels of the recorded run and, last, of its end."""
        return self.timetable[self.tables[0].start :]

    def __getattr__(self, name: str) -> Any:
        """`calibration.teacache(...)` is `TeaCache.from_calibration(calibration, ...)`; so for every cache that is made
        from a calibration, by its name in lower case.
        """
        if name in ("key", "tables"):
            raise ValueError(vars(self).get("missing", "Nothing is known of this calibration."))
        kinds = {kind.__name__.lower(): kind for kind in Method.registry["cache"].values()}
        make = getattr(kinds.get(name), "from_calibration", None)
        if make is None:
            raise AttributeError(f"a calibration has no {name!r}")
        return partial(make, self)

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

        Found by dynamic programming on the measured outputs (`accel.caching.planning`), for this predictor; experts are
        planned one by one, each with the same fraction. steps: of the runs to come.
        """
        predictor = Extrapolate() if predictor is None else predictor
        used = predictor if self.key.euler_steps else predictor.without_correction()
        rules = rules_for(used, warmup, final, max_skips)
        chosen: list[float] = []
        for table in self.at(steps).tables:
            computes = plan_steps(
                table.section, compute, flow="flow" in self.key.prediction, features=table.features(), rules=rules
            )
            chosen += [sigma for sigma, wanted in zip(table.sigmas, computes, strict=True) if wanted]
        return StaticSchedule(tuple(chosen), predictor=predictor, final=final)

    def threshold(self, method: C, compute: float) -> C:
        """The method, set so that it computes the fraction `compute` of the steps, or as near to it as it can be set.

        What is set is its dial (a threshold, an interval), by simulating the decisions on the recorded numbers, without
        running the model. A method without constants gets those of this calibration. What a cache then really computes
        differs by a few per cent, because its outputs change what it measures.
        Raises ValueError where the method cannot be simulated, or cannot compute as little.
        """
        if not isinstance(method, Cache):
            raise ValueError(_no_cache(method))
        return simulate.fit_threshold(method.fitted(self), self.tables, compute)

    def compute(self, method: Method) -> float:
        """The fraction of the steps that the method would compute, simulated: the counterpart of `threshold`."""
        if not isinstance(method, Cache):
            raise ValueError(_no_cache(method))
        return method.fitted(self).computed_share(self.tables)

    def fit_quality(self, signal: str = "auto", degree: int = 4) -> float:
        """Share of the variance of the output's change that TeaCache's polynomial explains (R squared); of two experts
        the lower one.
        """
        return polynomial_fit.explained(self.tables, self.time_signal(signal, degree), degree)

    def signals(self) -> dict[str, float]:
        """Rank correlation of each signal's change with the output's change, best first, mean over the denoisers.

        1: the signal always says which of two steps changes more. Not a number where it hardly changes at all.
        """
        found = {
            name: float(np.mean([rank_correlation(*table.pairs(name)) for table in self.tables]))
            for name in self.recorded_signals(name for name in self.tables[0].runs[0].changes if name != "output")
        }
        return dict(sorted(found.items(), key=lambda entry: -entry[1] if math.isfinite(entry[1]) else 2.0))

    def resample(self, sigmas: Sequence[float]) -> Calibration:
        """The same calibration at the noise levels of other runs: those of all their steps and, last, of the end."""
        _ = self.timetable  # which is one, or this raises
        return replace(self, tables=resample.resample(self.tables, sigmas, self.key.prediction))

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
        return self.resample(np.interp(places, np.arange(len(sigmas)), sigmas).tolist())

    @classmethod
    def unfinished(cls, missing: str) -> Self:
        """One that is still to be measured; until then, whatever it is asked is a ValueError with this sentence."""
        found = cls.__new__(cls)
        found.finish(missing)
        return found

    def finish(self, measured: Calibration | str) -> None:
        """Makes an unfinished calibration this one, or says why there is none."""
        vars(self).update({"missing": measured} if isinstance(measured, str) else vars(measured))

    def check(self, pipe: Any) -> list[str]:
        """What speaks against using this calibration with a pipeline (or an anatomy), one sentence each."""
        anatomy = pipe if isinstance(pipe, Anatomy) else inspect(pipe)
        found = self._misfits(anatomy)
        scheduler = ", ".join(anatomy.schedulers.values())
        if scheduler != self.key.scheduler:
            return [*found, f"It was calibrated with {self.key.scheduler}, and this pipeline has {scheduler}."]
        return found if isinstance(pipe, Anatomy) else [*found, *changed_settings(self.key, pipe)]

    def misfit(self, anatomy: Anatomy) -> str:
        """Why it says nothing about a pipeline, in one sentence; "" where it does, be it with another scheduler."""
        return next(iter(self._misfits(anatomy)), "")

    def _misfits(self, anatomy: Anatomy) -> list[str]:
        found = [sentence for table in self.tables for sentence in denoiser_misfit(table, anatomy)]
        if anatomy.prediction != self.key.prediction:
            found.append(f"It was calibrated for {self.key.prediction} prediction, and this is {anatomy.prediction}.")
        return found

    @property
    def quality(self) -> str:
        """What was measured, which signal is best, what the caches make of it, and what is unreliable."""
        return summary.text_of(self)

    def cautions(self) -> list[str]:
        """What is unreliable, one sentence each."""
        return summary.cautions_of(self)

    def __str__(self) -> str:
        return self.quality

    def __repr__(self) -> str:  # notebooks and debuggers ask an unfinished one too, and must not fail
        known = vars(self)
        return f"<Calibration: {known['key'].model}>" if "key" in known else f"<Calibration: {known.get('missing')}>"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the calibration as JSON, whole or not at all."""
        files.save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """Reads a calibration file. Raises ValueError, naming the field, for one that is missing or malformed."""
        return files.load(path)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Writes `accel_calibration.json` into a folder, such as that of the model."""
        files.save(self, os.path.join(folder, files.FILE))

    @classmethod
    def from_pretrained(cls, folder_or_repository: str | os.PathLike[str], **hub_arguments: Any) -> Calibration:
        """Reads `accel_calibration.json` from a folder, or from a repository on the Hugging Face hub.

        hub_arguments: go to `huggingface_hub.hf_hub_download` (revision, token, cache_dir ...).
        """
        return files.from_pretrained(folder_or_repository, **hub_arguments)

    def push_to_hub(self, repository: str, **hub_arguments: Any) -> str:
        """Uploads `accel_calibration.json`, making the repository where there is none; returns its address.

        hub_arguments: token and private, and what `huggingface_hub.HfApi.upload_file` takes (revision, create_pr ...).
        """
        return files.push(self, repository, **hub_arguments)

    def recorded_signals(self, names: Iterable[str]) -> list[str]:
        """Those of these signals that every denoiser has."""
        return [name for name in names if all(len(table.pairs(name)[0]) for table in self.tables)]

    def time_signal(self, signal: str, degree: int = 4) -> str:
        """A signal that follows the timestep (`TIME_SIGNALS`); "auto": whose polynomial of this degree explains most.

        Raises ValueError where there is none of this name.
        """
        if signal not in ("auto", *TIME_SIGNALS):
            raise ValueError(f"The signal must be one of auto, {', '.join(TIME_SIGNALS)}, not {signal!r}.")
        known = self.recorded_signals(TIME_SIGNALS)
        if signal == "auto" and known:
            return max(known, key=lambda name: polynomial_fit.explained_or_none(self.tables, name, degree) or 0.0)
        if signal not in known:
            what = "signal for TeaCache" if signal == "auto" else signal.replace("_", " ")
            raise ValueError(f"The calibration has no {what}: this model has no such module.")
        return signal


def _no_cache(method: Method) -> str:
    return f"{type(method).__name__} cannot be simulated: it is no accel.caching.Cache."
