"""`accel.render`: every line of a manifest as a file in a folder, each job exactly once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accel.caching.calibration.fitting import calibrations
from accel.patch import session_of
from accel.recipe import Recipe
from accel.rendering.batches import Batch, check_batch
from accel.rendering.driver import Driver
from accel.rendering.engine import Engine, Local
from accel.rendering.fingerprint import fingerprint
from accel.rendering.jobs import Shard
from accel.rendering.outcome import WorkerSettings
from accel.rendering.pipeline_arguments import plain_class
from accel.rendering.plan import DEFAULT_TEMPLATE, GivenPipeline, RenderPlan, make_plan
from accel.rendering.processes import Processes
from accel.rendering.seeds import Verifier
from accel.rendering.summary import RenderSummary


def render(
    pipe: Any,
    manifest: Any,
    out: str | os.PathLike[str] = "renders",
    *,
    recipe: Any = None,
    calibration: Any = (),
    defaults: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None,
    shard: str | Shard | None = None,
    retry_failed: bool = False,
    output: str = DEFAULT_TEMPLATE,
    embed: bool = True,
    batch: Batch = 1,
    metrics: bool = False,
    device: str | None = None,
    dtype: str | None = None,
    progress_bar: bool = True,
    workers: int = 1,
    engine: Engine | None = None,
    verifier: Verifier | None = None,
    overlap: bool = False,
) -> RenderSummary:
    """Renders every line of a manifest into a folder. Run it again after a crash: finished jobs are not repeated.

    Args:
        pipe: a diffusers pipeline; a model's name ("pocket:video", a folder, an id) for lines without one; or None
            where every line names its model. A pipeline comes back as it was; if it is accelerated, lines without a
            recipe render with its session.
        manifest: a .jsonl or .csv file, a rendered file with embedded settings, or a list of prompts or dicts.
        out: the folder. Besides the files it gets ledger.jsonl, jobs.jsonl (the manifest, expanded) and index.html.
        recipe: a preset, recipe file, Recipe or "off" for lines without one. Left out: for models the preset
            "balanced", for a pipeline what it is.
        calibration: of the model, or its file, or several of different guidance scales: every recipe takes from it what
            it can, as in `accel.accelerate`.
        defaults, overrides: fields that lines may replace, and fields that replace what lines say.
        grid: lists of values by field; every line is rendered with each combination.
        shard: "3/8" renders the third of eight parts; the parts may run at once on machines that share `out`.
        retry_failed: try jobs again that failed in an earlier run.
        output: template of file names; also a field of a line.
        embed: write the settings into each file; `settings_of` reads them.
        batch: jobs of equal settings that share a call of the pipeline. 1 gives the bits of `pipe(...)`, whatever else
            the manifest holds. More is faster for small jobs, but the sums of a batch are rounded in another order, so
            that files differ in their last bits from single runs, and caches that measure decide for the batch
            together. "auto" makes batches of small jobs only, up to 8, and only where the recipe decides without
            looking. Batches are cut from the manifest (or shard) as a whole: the same one gives the same files with any
            number of workers and after crashes, but for a batch during which two workers died or for which memory did
            not suffice. Where a part of a batch is there already, the whole is rendered for the missing part.
        metrics: render each job unaccelerated as well and record PSNR and SSIM. More than doubles the time.
        device, dtype: for models that are loaded here.
        workers: processes on this machine, each with its own copy of the model, where there are GPUs each with its own.
            Models must be given by name, and a script must call `render` below `if __name__ == "__main__":`.
        verifier: judges for lines with the field `best_of`, as that of `accel.best_of`; pocket models have their own.
            With workers it must be a function of a module, which they import.
        overlap: decode a job while the next one is denoised, in two threads over the same weights (on the CPU;
            elsewhere, and wherever it is not safe, jobs run one after the other, and a note says why). Bytes and order
            are those of a plain loop with as many threads as each of the two has: they share torch's, unless
            OMP_NUM_THREADS says how many each has. Memory: the latents and decoder activations of one more job, and
            once more what a recipe makes of weights. It pays where decoding takes a good part of the time and a core is
            free for it, or where products are too small for all cores.
        engine: who renders: `Processes`, `Ray` or an Engine of your own; left out, this process or `workers` processes.

    Raises ManifestError with all that is wrong in a manifest before any model loads, Busy where another process renders
    into the folder, OutputError for a folder that cannot be written or a disk that is full, and Interrupted (a
    KeyboardInterrupt) on Ctrl-C. A job that fails is recorded, and the others go on.
    """
    check_batch(batch)
    given = None if pipe is None or isinstance(pipe, str) else pipe
    engine = _engine(given, workers, engine)
    plan = plan_for(
        pipe, manifest, recipe=recipe, calibration=calibration, defaults=defaults, overrides=overrides, grid=grid,
        output=output, dtype=dtype, verifier=verifier,
    )  # fmt: skip
    part = Shard.parse(shard) if isinstance(shard, str) else shard
    driver = Driver(plan, Path(out), part)
    settings = WorkerSettings(driver.folder.parts.absolute(), device, embed, metrics, verifier, overlap)
    return driver.run(engine, settings, batch, retry_failed=retry_failed, shown=progress_bar)


def _engine(given: Any, workers: int, engine: Engine | None) -> Engine:
    if type(workers) is not int or workers < 1:
        raise ValueError(f"workers must be a whole number from 1, not {workers!r}.")
    if engine is None and workers == 1:
        return Local(given)
    if given is not None:
        raise ValueError(
            "other processes load their models themselves: give the model's name instead of a pipeline, or a function "
            "that loads it, engine=Processes(2, load=...)."
        )
    return engine or Processes(workers)


def plan_for(
    pipe: Any,
    manifest: Any,
    *,
    recipe: Any = None,
    calibration: Any = (),
    defaults: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None,
    output: str = DEFAULT_TEMPLATE,
    dtype: str | None = None,
    verifier: Verifier | None = None,
) -> RenderPlan:
    """The jobs that :func:`render` would render with these arguments; nothing is loaded or written."""
    from accel.presets import DEFAULT

    fallback: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
    given = None
    if pipe is None or isinstance(pipe, str):
        fallback |= {"recipe": DEFAULT} | ({"model": pipe} if pipe else {})
    else:
        session = session_of(pipe)
        given = GivenPipeline(fingerprint(pipe), plain_class(pipe))
        fallback["recipe"] = session.recipe if session is not None else Recipe()
    if recipe is not None:
        fallback["recipe"] = _from_here(recipe)
    fallback |= defaults or {}
    return make_plan(
        manifest, given=given, defaults=fallback, overrides=overrides, grid=grid, template=output,
        calibrations=calibrations(calibration), verifier=verifier,
    )  # fmt: skip


def _from_here(recipe: Any) -> Any:
    """A recipe file is meant relative to where the caller is, not to the manifest."""
    if isinstance(recipe, os.PathLike) or (isinstance(recipe, str) and recipe.endswith(".json")):
        return os.path.abspath(recipe)
    return recipe
