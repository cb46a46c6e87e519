"""What a candidate would do, simulated on one recording without running the model: evaluations, and errors by lever."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from accel.anatomy import Anatomy
from accel.caching.cache_method import CacheMethod
from accel.caching.calibration import simulate
from accel.caching.calibration.calibrate import CalibrationRuns
from accel.caching.calibration.calibration import Calibration
from accel.caching.calibration.recorder import RunRecord
from accel.caching.calibration.table import Array, StepTable, features_of
from accel.caching.methods.schedules import rules_for
from accel.caching.planning import PlanRules, gap_errors
from accel.method import Method
from accel.parametrization import flow_time
from accel.recipe import Recipe
from accel.samplers.guidance.policy import GuidanceMethod
from accel.samplers.recorded_steps import RecordedStep
from accel.tuning.space import SEEN_IN_A_RUN

# Longer gaps than this are counted as this long.
LONGEST = 16
CALIBRATION = "calibration.json"


@dataclass(frozen=True)
class Estimate:
    """computed: steps that compute over the steps asked for. evaluations: the same for denoiser evaluations (a batch of
    two counts as two). errors: for each lever the squared error that it leaves in the result, in units of its own, of
    which only ratios mean anything.
    """

    computed: float
    evaluations: float
    errors: Mapping[str, float]


@dataclass(frozen=True)
class GuidancePasses:
    """The two passes of guidance in one denoiser, over T steps.

    products: the (T, T) inner products of the difference of their outputs times the guidance scale, mean over the runs.
    cosines: (runs, T) of their clean estimates, of the sample that agrees least.
    """

    products: Array
    cosines: Array

    def at(self, old: StepTable, new: StepTable) -> GuidancePasses:
        """At the noise levels of another table of the same denoiser, by straight lines in between."""
        places = np.interp([-sigma for sigma in new.sigmas], [-sigma for sigma in old.sigmas], np.arange(old.steps))
        weights = np.stack([np.interp(places, np.arange(old.steps), row) for row in np.eye(old.steps)], axis=1)
        return GuidancePasses(weights @ self.products @ weights.T, self.cosines @ weights.T)


class Simulator:
    """Simulates recipes on a recording.

    Errors are those of the caches' own planning (`accel.caching.planning`): what a forecast misses of the recorded
    outputs, weighted as the scheduler weights it and grown as errors grow until the end of the run. They say which of
    two settings is better and by what ratio; how much that is in pixels is learned from real runs.
    """

    def __init__(self, calibration: Calibration, anatomy: Anatomy, passes: Mapping[str, GuidancePasses]) -> None:
        self.calibration, self.anatomy, self.passes = calibration, anatomy, dict(passes)
        self.tables = calibration.tables
        self.flow = "flow" in anatomy.prediction
        self._errors: dict[tuple[str, PlanRules, str], Array] = {}
        self._known: dict[tuple[Method | None, str], list[tuple[bool, ...]]] = {}
        self._shorter: dict[int, Simulator] = {}

    @classmethod
    def of(cls, recording: CalibrationRuns) -> Simulator:
        """Keeps of the recording what is needed: a few numbers for each step."""
        seen = {table.denoiser: passes_of(recording, table) for table in recording.calibration.tables}
        kept = {name: passes for name, passes in seen.items() if passes is not None}
        return cls(recording.calibration, recording.anatomy, kept)

    def save(self, folder: Path) -> None:
        """Into `calibration.json` and one file for each denoiser with two passes."""
        for name, passes in self.passes.items():
            np.savez(folder / f"passes-{name}.npz", products=passes.products, cosines=passes.cosines)
        self.calibration.save(folder / CALIBRATION)

    @classmethod
    def load(cls, folder: Path, anatomy: Anatomy) -> Simulator | None:
        """What was saved there; None where it is not complete."""
        if not (folder / CALIBRATION).exists():
            return None
        passes = {}
        for path in folder.glob("passes-*.npz"):
            with np.load(path) as arrays:
                passes[path.stem.removeprefix("passes-")] = GuidancePasses(arrays["products"], arrays["cosines"])
        return cls(Calibration.load(folder / CALIBRATION), anatomy, passes)

    def outlook(self, recipe: Recipe) -> Estimate:
        """Raises ValueError for a cache that cannot be simulated."""
        if recipe.sampler is not None:
            return self._sampled(recipe, float(getattr(recipe.sampler, "steps", 1.0)))
        errors = {name: 1.0 for name in SEEN_IN_A_RUN if getattr(recipe, name) is not None}
        steps, evaluations, total, cache, guidance = 0.0, 0.0, 0, 0.0, 0.0
        for table in self.tables:
            masks = self._masks(recipe.cache, table)
            for run, mask in enumerate(masks):
                both, computed = np.asarray(mask), int(sum(mask))
                cache += self._gaps(table, mask, recipe.cache) / len(masks)
                if (passes := self.passes.get(table.denoiser)) is not None:
                    both = guided_steps(recipe.guidance, table, passes.cosines[run % len(passes.cosines)], mask)
                    guidance += self._carried(table, passes, both, mask) / len(masks)
                steps += computed / len(masks)
                evaluations += (computed + int(both.sum())) / 2 / len(masks)
            total += table.steps
        if recipe.cache is not None:
            errors["cache"] = cache
        if recipe.guidance is not None:
            errors["guidance"] = guidance
        return Estimate(steps / total, evaluations / total, errors)

    def _sampled(self, recipe: Recipe, share: float) -> Estimate:
        """With a sampler: what the other levers do at its number of steps, and an error of its own."""
        steps = max(round(share * self.calibration.steps), 2)
        if steps not in self._shorter:
            calibration = self.calibration.at(steps)
            pairs = zip(self.tables, calibration.tables, strict=True)
            passes = {
                old.denoiser: self.passes[old.denoiser].at(old, new)
                for old, new in pairs
                if old.denoiser in self.passes
            }
            self._shorter[steps] = Simulator(calibration, self.anatomy, passes)
        found = self._shorter[steps].outlook(replace(recipe, sampler=None))
        # What a better solver differs in from the scheduler's own, and the error of its second-order steps, which was
        # about as large at a third of the steps.
        errors = {**found.errors, "sampler": 1.0 + (0.35 / share) ** 4}
        part = steps / self.calibration.steps
        return Estimate(part * found.computed, part * found.evaluations, errors)

    def _masks(self, cache: Method | None, table: StepTable) -> list[tuple[bool, ...]]:
        """For each recorded run (one where all are alike) which steps compute."""
        key = (cache, table.denoiser)
        if key not in self._known:
            self._known[key] = self._simulated(cache, table)
        return self._known[key]

    def _simulated(self, cache: Method | None, table: StepTable) -> list[tuple[bool, ...]]:
        if cache is None or self.calibration.steps < getattr(cache, "min_steps", 0):
            return [(True,) * table.steps]
        if not isinstance(cache, CacheMethod):
            raise ValueError(f"{type(cache).__name__} cannot be simulated; accel.compare measures it.")
        runs = table.runs[:1] if cache.data_free else table.runs  # one is like the other
        masks = [
            simulate.compute_mask(cache, table, trace, simulate.whole(self.tables), self.anatomy) for trace in runs
        ]
        return masks * len(table.runs) if cache.data_free else masks

    def _gaps(self, table: StepTable, mask: Sequence[bool], cache: Method | None) -> float:
        if all(mask) or not isinstance(cache, CacheMethod):
            return 0.0
        rules = rules_for(cache.predictor.expected_under(self.anatomy), 1, 1, LONGEST - 1)
        return _sum_of_gaps(self._table_of_errors(table, rules, "answers"), np.flatnonzero(mask))

    def _carried(self, table: StepTable, passes: GuidancePasses, both: Array, mask: Sequence[bool]) -> float:
        if np.array_equal(both, mask):
            return 0.0
        order = PlanRules(1, 1, LONGEST - 1, order=0, corrector=0 if any(self.anatomy.uncorrectable.values()) else 1)
        return _sum_of_gaps(self._table_of_errors(table, order, "difference"), np.flatnonzero(both))

    def _table_of_errors(self, table: StepTable, rules: PlanRules, of: str) -> Array:
        key = (table.denoiser, rules, of)
        if key not in self._errors:
            features = table.features() if of == "answers" else features_of(self.passes[table.denoiser].products)
            self._errors[key] = gap_errors(np.asarray(table.section), self.flow, features, rules)
        return self._errors[key]


def guided_steps(guidance: Method | None, table: StepTable, cosines: Array, mask: Sequence[bool]) -> Array:
    """(T,) whether a step has both passes: the rules of the guidance method, among the steps that a cache computes."""
    if not isinstance(guidance, GuidanceMethod):
        return np.array(mask, dtype=bool)
    flow, total = table.timetable[0] <= 1.0, len(table.timetable) - 1
    steps = [
        RecordedStep(table.start + step, total, sigma, flow_time(sigma, flow), float(cosines[step]), mask[step])
        for step, sigma in enumerate(table.sigmas)
    ]
    return np.array(guidance.guided_steps(steps), dtype=bool)


def passes_of(recording: CalibrationRuns, table: StepTable) -> GuidancePasses | None:
    """The two passes as they were recorded; None where there were no two."""
    products, cosines = [], []
    for course in recording.courses:
        if course.denoiser != table.denoiser or len(course.rows) != table.steps:
            continue
        pair = _pair(course)
        if pair is None:
            return None
        difference = recording.guidance * (pair[0] - pair[1]).flatten(1)  # (T, rows · elements)
        products.append((difference @ difference.T / difference.shape[1]).numpy())
        cosines.append(_cosines(course, pair, table, recording.anatomy.prediction))
    return GuidancePasses(np.mean(products, axis=0), np.stack(cosines)) if products else None


def _pair(course: RunRecord) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The outputs of both passes, (T, rows, elements) each."""
    streams = [
        torch.stack(answers).double()
        for answers in course.outputs.values()
        if len(answers) == len(course.rows) and len({answer.shape for answer in answers}) == 1
    ]
    if course.batched and len(streams) == 1 and streams[0].shape[1] % 2 == 0:
        streams = list(streams[0].chunk(2, dim=1))
    return (streams[0], streams[1]) if len(streams) == 2 and streams[0].shape == streams[1].shape else None


def _cosines(course: RunRecord, pair: tuple[torch.Tensor, torch.Tensor], table: StepTable, kind: str) -> Array:
    """(T,) the least cosine of the clean estimates. The recorded outputs of flow models are the flows."""
    if "flow" in kind:
        rows = pair[0].shape[1]
        x = torch.stack(course.inputs).double()[:, :rows]  # (T, rows, elements)
        sigma = torch.tensor(table.sigmas, dtype=torch.float64).view(-1, 1, 1) * (1.0 if kind == "flow" else -1.0)
        if x.shape != pair[0].shape:
            return np.zeros(table.steps)
        pair = (x - sigma * pair[0], x - sigma * pair[1])
    return np.asarray(torch.nn.functional.cosine_similarity(*pair, dim=-1).amin(1).numpy())


def _sum_of_gaps(errors: Array, steps: Any) -> float:
    """Squared errors of all gaps between these steps; `errors` as `gap_errors` gives them."""
    gaps = np.clip(np.diff(steps), 1, LONGEST)
    if not len(gaps):
        return 0.0
    before = np.concatenate([[1], gaps[:-1]])
    found = errors[np.minimum(before, errors.shape[0] - 1), steps[:-1], gaps]
    return float(np.where(np.isfinite(found), found, 0.0).sum())
