"""What is expected of each candidate before any of them runs: simulated on a recording of this pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from accel.anatomy import inspect
from accel.caching.calibration.calibrate import record
from accel.measure.output import output_of
from accel.tuning.clip_split import PromptSeed
from accel.tuning.goal import TuningGoal
from accel.tuning.simulate import Estimate, Simulator
from accel.tuning.space import KEEPING, Candidate, Recipes, Space

WORTH = 0.97  # share of the evaluations that a guidance method must leave to be a candidate


def foresight(
    pipe: Any,
    shots: Sequence[PromptSeed],
    steps: int,
    arguments: Mapping[str, Any],
    given: Mapping[str, Any],
    folder: Path,
    tell: Callable[[str], None],
) -> Simulator:
    """A simulator of this pipeline, recorded on these clips, or read from the folder, where it is kept.

    arguments: of every call. given: those of them that the user gave, by which the recording says what it belongs to.
    """
    found = Simulator.load(folder, inspect(pipe))
    if found is not None:
        return found

    def generate(pipe: Any, prompt: str, index: int) -> None:
        import torch

        tell(f"recording, clip {index + 1} of {len(shots)}")
        generator = torch.Generator("cpu").manual_seed(shots[index].seed)
        output_of(pipe(**arguments, prompt=prompt, num_inference_steps=steps, generator=generator), pipe)

    belongs: dict[str, Any] = {**given, "num_inference_steps": steps}
    recording = record(pipe, [shot.prompt for shot in shots], generate=generate, layer_lags=0, **belongs)
    found = Simulator.of(recording)
    found.save(folder)
    return found


def outlooks_of(space: Space, recipes: Recipes, simulator: Simulator, goal: TuningGoal) -> dict[Candidate, Estimate]:
    """Of every candidate, but for those whose guidance method finds little to save behind their cache."""
    found: dict[Candidate, Estimate] = {}
    for structure in space.structures():
        for share in space.dials(structure):
            candidate = Candidate(structure, share)
            recipe = recipes.of(candidate)
            if recipe is None:
                continue
            outlook = simulator.outlook(recipe)
            if goal.allows_another_picture:
                errors = {lever: error for lever, error in outlook.errors.items() if lever in KEEPING}
                outlook = replace(outlook, errors=errors)
            if recipe.guidance is not None:
                without = simulator.outlook(replace(recipe, guidance=None)).evaluations
                if outlook.evaluations > WORTH * without:
                    continue
            found[candidate] = outlook
    return found
