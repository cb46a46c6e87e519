"""A quick self-check: what a preset or recipe really gives with this pipeline and prompt on this machine, in a line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, overload

from accel.anatomy import Anatomy, inspect
from accel.measure.comparison import ComparisonInterrupted, compare
from accel.measure.measurements import BASELINE
from accel.measure.metrics import MAX_PSNR
from accel.measure.results import Comparison
from accel.measure.rows import ResultRow
from accel.method import Method
from accel.presets import DEFAULT, PRESETS, doubt
from accel.recipe import Recipe
from accel.session import bare
from accel.terminal import one_line

BUSY = 1.25  # two times of the same work that are so far apart were not measured on an idle machine


@dataclass(frozen=True)
class Check:
    """What one preset or recipe gave in one run, compared with one run without; `str()` is the line.

    speed, cpu_speed: how many times less wall-clock and processor time it took, end to end; the latter is None where a
        GPU does the work.
    psnr: dB against the unaccelerated output, 100 for an identical one; SNR where the pipeline makes sound alone.
    computed: share of the unaccelerated run's denoiser calls that were computed.
    promise: dB that the preset promises on any pipeline, None for turbo and for recipes that are no preset.
    kept: whether the promise was kept; None where nothing is promised here.
    steady: whether the times can be believed; where not, the machine was busy with something else.
    reasons: what the report says of each lever, and its notes.
    changes: a sentence for each size that the pipeline made otherwise than it was asked.
    idle: why nothing was accelerated, and a ratio of times would be the noise of the machine; "" where a lever acted.
    """

    label: str
    speed: float
    cpu_speed: float | None
    psnr: float
    computed: float
    promise: float | None
    kept: bool | None
    verdict: str
    steady: bool = True
    reasons: tuple[str, ...] = ()
    idle: str = ""
    changes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Every field, ready for JSON."""
        return asdict(self) | {"reasons": list(self.reasons), "changes": list(self.changes)}

    def __str__(self) -> str:
        if self.idle:
            return one_line(f"{self.label}: not accelerated: {self.idle}")
        close = "identical output" if self.psnr >= MAX_PSNR else f"{self.psnr:.0f} dB"
        line = f"{self.label}: {_times(self.speed)}{'' if self.steady else self._unsteady()}, {close}"
        return one_line(f"{line}; {self.verdict}" if self.verdict else line)

    def _unsteady(self) -> str:
        processor = f", {_times(self.cpu_speed)} of processor time" if self.cpu_speed else ""
        return f" on a busy machine{processor}"


@overload
def check(pipe: Any, prompt: str | None, recipe: list[Any], *, seed: int = 0, **call: Any) -> list[Check]: ...
@overload
def check(
    pipe: Any,
    prompt: str | None = None,
    recipe: Recipe | Method | str | os.PathLike[str] | None = DEFAULT,
    *,
    seed: int = 0,
    **call: Any,
) -> Check: ...
def check(
    pipe: Any, prompt: str | None = None, recipe: Any = DEFAULT, *, seed: int = 0, **call: Any
) -> Check | list[Check]:
    """Runs the pipeline once without and once with `recipe`, warm and from the same noise, and says what that gives.

        print(accel.check(pipe, "a corgi surfing"))  # balanced: 2.3x, 44 dB; promise kept

    One prompt is a quick look: `accel.compare` measures several, beside fewer steps in the same time, and `accel.tune`
    finds what keeps a promise. Costs the two runs and two short ones before them, and two more rounds where the times
    contradict what was computed, because the machine had other work.

    pipe: a diffusers pipeline. It comes back as it was, accelerated or not, also after an error or Ctrl-C.
    prompt: None for a pipeline that takes none, or gets it as `prompt_embeds`.
    recipe: a preset ("balanced" where it is None), a Recipe, a recipe's file or a single method; a list of them gives a
        list, from one unaccelerated run (for every six of them).
    call: further arguments of the pipeline, such as num_inference_steps, height, negative_prompt or image.

    Raises ValueError or TypeError, in one sentence, for bad arguments, and after a few steps for a pipeline whose
    outputs cannot be compared, because they are neither one image nor one video or sound.
    """
    if "generator" in call:
        raise ValueError("The check makes the noise itself: give seed=0 instead of generator=...")
    recipe = DEFAULT if recipe is None else recipe
    recipes = recipe if isinstance(recipe, list) else [recipe]
    found = _measured(pipe, prompt, recipes, seed, call, repeats=1)
    if any(_contradictory(found, row) for row in found.rows[1:]):
        found = _measured(pipe, prompt, recipes, seed, call, repeats=2)
    with bare(pipe):
        anatomy = inspect(pipe)
    checks = [_judged(found, row, anatomy) for row in found.rows[1:]]
    return checks if isinstance(recipe, list) else checks[0]


def _measured(
    pipe: Any, prompt: str | None, recipes: list[Any], seed: int, call: Mapping[str, Any], repeats: int
) -> Comparison:
    steps = call.get("num_inference_steps")
    arguments = {name: value for name, value in call.items() if name != "num_inference_steps"}
    try:
        return compare(
            pipe,
            recipes,
            () if prompt is None else (prompt,),
            (seed,),
            steps=steps,
            repeats=repeats,
            call_arguments=arguments,
            fewer_steps=False,
            progress=False,
        )
    except ComparisonInterrupted as interrupt:
        raise KeyboardInterrupt("the check was interrupted") from interrupt


def _judged(found: Comparison, row: ResultRow, anatomy: Anatomy) -> Check:
    recipe = Recipe.from_dict(found.recipes[row.label])
    preset, psnr = PRESETS.get(recipe.name), row.decibels or 0.0
    why = doubt(recipe, anatomy) if found.settings["frames"] else "presets promise PSNR, which sound has not"
    idle = found.idle(row.label)
    return Check(
        label=row.label,
        speed=row.speedup,
        cpu_speed=row.cpu_speedup,
        psnr=psnr,
        computed=_computed(found, row.label),
        promise=preset.decibels if preset else None,
        kept=preset.kept(psnr) if preset and why is None else None,
        verdict=f"nothing was skipped: {idle}" if idle else _verdict(recipe.name, psnr, why),
        idle=idle,
        changes=tuple(found.changes()),
        steady=_steady(found.rows[0], row),
        reasons=_reasons(found, row.label),
    )


def _contradictory(found: Comparison, row: ResultRow) -> bool:
    """Whether it was faster than what it left out can explain (or attention is), or waited for the processor."""
    return row.speedup * _computed(found, row.label) > BUSY or not _steady(found.rows[0], row)


def _steady(baseline: ResultRow, row: ResultRow) -> bool:
    """Whether each took as long every time, and wall-clock and processor time tell the same."""
    ratios = [one.seconds_range[1] / max(one.seconds_range[0], 1e-9) for one in (baseline, row)]
    if row.cpu_speedup:
        ratios += [row.speedup / row.cpu_speedup, row.cpu_speedup / row.speedup]
    return max(ratios) < BUSY


def _computed(found: Comparison, label: str) -> float:
    """What was computed of the denoiser, as a share of the unaccelerated run."""
    return _evaluations(found, label) / max(_evaluations(found, BASELINE), 1e-9)


def _evaluations(found: Comparison, label: str) -> float:
    """Those that ran to their end, in calls of a whole batch."""
    return float(sum(call["part"] for call in found.timelines[label] if call["action"] == "computed"))


def _reasons(found: Comparison, label: str) -> tuple[str, ...]:
    levers = (f"{lever['lever']}: {lever['reason']}" for lever in found.levers[label])
    return (*levers, *found.notes[label])


def _verdict(name: str, psnr: float, why: str | None) -> str:
    """What became of the promise of the preset `name`; "" for a recipe that is no preset."""
    if name not in PRESETS:
        return ""
    if why is not None:
        return f"it promises nothing here, because {why}"
    kept = PRESETS[name].kept(psnr)
    if kept is None:
        return "it promises no PSNR: look at the picture"
    return "promise kept" if kept else f"the promise, {PRESETS[name].promise}, is not kept: {_way_out(name)}"


def _way_out(name: str) -> str:
    """The next more careful preset."""
    names = list(PRESETS)
    before = names.index(name) - 1
    return f"try {names[before]}" if before >= 0 else "accel.tune finds a recipe that keeps it"


def _times(speed: float) -> str:
    return f"{speed:.1f}x" if speed >= 1.1 else f"{speed:.2f}x"
