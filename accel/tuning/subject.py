"""The pipeline that is tuned, as it is called in production: what it is, and what its runs have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accel.anatomy import Anatomy, inspect
from accel.files import last_name
from accel.measure.call_arguments import call_arguments_of, steps_of
from accel.measure.comparison import compare
from accel.measure.environment import environment
from accel.measure.measurements import Verifier
from accel.measure.output import METRICS, Metric
from accel.measure.results import Comparison
from accel.measure.runner import check_judges
from accel.recipe import Recipe
from accel.rendering.fingerprint import fingerprint
from accel.tuning.clip_split import ClipSplit, PromptSeed
from accel.tuning.evidence import TUNED
from accel.tuning.trials import TrialRunner


class TuningSubject:
    """A pipeline with the arguments and steps that recipes are tuned for.

    given: arguments of each call, by the user; `arguments` are all of them. verify: as in `accel.compare`.
    """

    def __init__(
        self, pipe: Any, given: Mapping[str, Any], asked_steps: int | None, verify: Verifier | None = None
    ) -> None:
        self.pipe, self.given, self.verify = pipe, given, verify
        self.steps = steps_of(pipe, asked_steps)
        self.arguments = call_arguments_of(pipe, given)
        check_judges({"verify": verify})
        self.anatomy: Anatomy = inspect(pipe)
        self.model = {
            "pipeline": self.anatomy.pipeline,
            "repository": last_name(self.anatomy.repository),
            "fingerprint": fingerprint(pipe),
        }

    def runner(self, shots: Sequence[PromptSeed], metrics: Mapping[str, Metric], folder: Path) -> TrialRunner:
        """Makes real runs on these clips, and keeps them in the folder."""
        return TrialRunner(self.pipe, shots, self.steps, self.arguments, metrics, folder, self._identity())

    def compare(
        self, recipe: Recipe, split: ClipSplit, metrics: Mapping[str, Metric], fewer_steps: Sequence[int]
    ) -> Comparison:
        """The recipe side by side with the unaccelerated pipeline, and with fewer steps, on the held-out clips."""
        others = {name: metric for name, metric in metrics.items() if METRICS.get(name) is not metric}
        return compare(
            self.pipe, [(TUNED, recipe)], split.prompts, split.seeds, steps=self.steps, call_arguments=self.given,
            verify=self.verify, metrics=others, progress=False, fewer_steps=fewer_steps,
        )  # fmt: skip

    def _identity(self) -> dict[str, Any]:
        """What runs must have in common to be runs of one tuning, besides clips and steps."""
        here = environment(self.pipe)
        versions = {name: here[name] for name in ("torch", "diffusers", "accel", "device_name", "dtype")}
        arguments = {name: _named(value) for name, value in self.arguments.items()}
        return {**self.model, **versions, "arguments": arguments}


def _named(value: Any) -> str:
    """An argument in the journal: pictures and arrays by their content, as their text has their place in memory."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_named, value))}]"
    return hashlib.sha256(value.tobytes()).hexdigest() if hasattr(value, "tobytes") else repr(value)
