"""The command `accel`: demo, compare, app, tune, render, frontier, calibrate, refine, inspect, presets."""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accel.rendering.engine import Engine
    from accel.results import Comparison

SOME_FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. Returns 0, 1 where `render` could not render everything, 2 for bad input (one sentence on
    stderr), or 130 after Ctrl-C.
    """
    options = _parser().parse_args(argv)
    for library in ("DIFFUSERS", "TRANSFORMERS"):  # their advice at import time is not about anything we do
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    command: Callable[[argparse.Namespace], int | None] = options.command
    try:
        code = command(options)
    except KeyboardInterrupt as interrupt:
        print(f"\naccel: {_what_was_saved(interrupt, options)}", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, TypeError, OSError, ImportError) as error:
        if options.traceback:
            traceback.print_exc()
        print(f"accel: {str(error) or type(error).__name__}", file=sys.stderr)
        return BAD_INPUT
    return code or 0


def demo(options: argparse.Namespace) -> None:
    """Films by the pocket model, unaccelerated and accelerated."""
    from accel import pocket

    prompts = _pocket_prompts(options.prompt or pocket.prompts(options.clips, options.seed[0]))
    pipe = _load("pocket:video", options)
    _compare(pipe, prompts, options.preset, options.seed, options, verify=pocket.verify)


def compare_model(options: argparse.Namespace) -> None:
    """Recipes against any pipeline."""
    prompts, verify = options.prompts, None
    if options.model.startswith("pocket:"):
        from accel import pocket

        prompts, verify = _pocket_prompts(prompts or pocket.prompts(4, 0)), pocket.verify
    if not prompts:
        raise ValueError('which prompts? For example: --prompts "a corgi surfing".')
    _compare(_load(options.model, options), prompts, options.recipes, options.seeds, options, verify=verify)


def render_manifest(options: argparse.Namespace) -> int:
    """Every line of a manifest, as files."""
    from accel.rendering import plan_for, render
    from accel.rendering.manifest import parse_settings
    from accel.rendering.summary import overview

    planned: dict[str, Any] = {
        "recipe": options.recipe,
        "overrides": parse_settings(options.set),
        "grid": parse_settings(options.grid, several=True),
        "dtype": options.dtype,
    }
    if options.output is not None:
        planned["output"] = options.output
    if options.dry_run:
        plan = plan_for(options.model, options.manifest, **planned)
        print(overview(plan, options.out, options.shard))
        return 0
    summary = render(
        options.model,
        options.manifest,
        options.out,
        **planned,
        shard=options.shard,
        retry_failed=options.retry_failed,
        embed=options.embed,
        batch=options.batch,
        metrics=options.metrics,
        device=options.device,
        engine=_engine(options),
    )
    print(summary, f"Page:   {summary.page}", f"Ledger: {options.out}", sep="\n")
    return 0 if summary.complete else SOME_FAILED


def serve_app(options: argparse.Namespace) -> None:
    """The comparison app, in a browser."""
    try:
        from accel.app.serve import serve
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise ImportError('the app needs gradio: pip install "diffusers-accel[app]".') from None
    serve(
        options.port,
        model=options.model,
        host=options.host,
        share=options.share,
        open_browser=options.open,
        out=options.out,
        folders=options.allow,
        hub=not options.no_hub,
        device=options.device,
        dtype=options.dtype,
    )


def _batch(text: str) -> Any:
    """A number, or what `render` says to anything else."""
    return int(text) if text.isdecimal() else text


def _engine(options: argparse.Namespace) -> Engine | None:
    """Who renders; None is this process."""
    from accel.rendering import Processes, Ray

    if options.engine == "ray":
        return Ray(options.address, options.workers)
    if options.address is not None:
        raise ValueError("--address is of a Ray cluster; add --engine ray.")
    return None if options.workers in (None, 1) else Processes(options.workers)


def measure_bench(options: argparse.Namespace) -> None:
    """Tuned recipes, presets, single levers, fewer steps and other libraries."""
    from accel.bench import measure, save

    verify = None
    if options.model.startswith("pocket:"):
        from accel import pocket

        verify = pocket.verify
    prompts = _recorded_prompts(options.prompts, options.model)
    if len(prompts) < options.clips + 6:
        raise ValueError(
            f"{options.clips} prompts to judge on and at least 6 to tune on are needed, not {len(prompts)}."
        )
    with _waiting("tuning") as status:
        bench = measure(
            _load(options.model, options), prompts[options.clips :], prompts[: options.clips], options.out,
            qualities=options.qualities, speeds=options.speeds, minutes=options.minutes, steps=options.steps,
            call_arguments=_call_arguments(options), verify=verify, tell=status.update,
        )  # fmt: skip
    with _waiting(f"writing {options.out}"):
        lines = save(bench, options.out, options.qualities)
        page = bench.comparison.save(options.out)
    print(bench.comparison, *lines, f"\nPicture: {options.out / 'bench.svg'}\nPage:    {page}", sep="\n")


def measure_frontier(options: argparse.Namespace) -> None:
    """Every method and predictor, fewer steps and the rivals on the pocket model."""
    from accel import pocket
    from accel.frontier import measure, save

    prompts = pocket.prompts(options.clips + 6, seed=11)
    result = measure(
        _load("pocket:video", options),
        prompts[6:],
        prompts[:6],
        steps=options.steps,
        repeats=options.repeats,
        call_arguments=_call_arguments(options),
        verify=pocket.verify,
    )
    with _waiting(f"writing {options.out}"):
        lines = save(result, options.out)
    print(result, *lines, f"\nTable, data and picture: {options.out}", sep="\n")


def measure_trajectory(options: argparse.Namespace) -> None:
    """Guidance methods, samplers and compositions of levers on the pocket model."""
    from accel import pocket
    from accel.trajectory import measure, text_of

    prompts = pocket.prompts(options.clips + 6, seed=12)
    results = measure(
        _load("pocket:video", options),
        prompts[6:],
        prompts[:6],
        options.out,
        steps=options.steps,
        call_arguments=_call_arguments(options),
        verify=pocket.verify,
    )
    print(text_of(results), f"\nTable and data: {options.out}", sep="\n")


def measure_levers(options: argparse.Namespace) -> None:
    """Cache, attention and guidance, alone and together, on the pocket model."""
    from accel import pocket
    from accel.files import write_whole
    from accel.levers import measure

    result = measure(
        _load("pocket:video", options),
        pocket.prompts(options.clips, seed=13),
        steps=options.steps,
        call_arguments=_call_arguments(options),
        verify=pocket.verify,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    write_whole(options.out / "levers.txt", f"{result}\n")
    write_whole(options.out / "levers.json", json.dumps(result.to_dict(), indent=1))
    print(result, f"\nTable and data: {options.out}", sep="\n")


def tune_model(options: argparse.Namespace) -> int:
    """The fastest recipe that keeps a quality, or the most faithful one at a speed."""
    from accel.tuning import NotMet, tune
    from accel.tuning.evidence import sentence

    verify = None
    if options.model.startswith("pocket:"):
        from accel import pocket

        verify = pocket.verify
    prompts = _recorded_prompts(options.prompts, options.model)
    held_out = None if options.held_out is None else _recorded_prompts(options.held_out, options.model)
    pipe = _load(options.model, options)
    with _waiting("tuning") as status:
        try:
            recipe = tune(
                pipe, prompts, min_psnr=options.min_psnr, min_ssim=options.min_ssim, max_lpips=options.max_lpips,
                target_speedup=options.target_speedup, coverage=options.coverage, held_out=held_out, seed=options.seed,
                steps=options.steps, minutes=options.minutes, levers=options.levers, generic=options.generic,
                call_arguments=_call_arguments(options), verify=verify, out=options.out,
                known=options.known or not options.no_known, tell=status.update,
            )  # fmt: skip
        except NotMet as error:
            print(f"accel: {error}", file=sys.stderr)
            if error.nearest is not None:
                print(f"It is in {options.out / 'recipe.json'}, with the evidence.", file=sys.stderr)
            return SOME_FAILED
    print(sentence(recipe.evidence), f"\nRecipe:   {options.out / 'recipe.json'}", sep="\n")
    print(f"Evidence: {options.out / 'evidence.html'}")
    return 0


def calibrate_model(options: argparse.Namespace) -> None:
    """Records a model once, for all the caches that need to know something about it."""
    from accel.caching import calibrate
    from accel.contest import quiet

    prompts = _recorded_prompts(options.prompts, options.model)
    pipe, arguments = _load(options.model, options), _call_arguments(options)
    if options.steps is not None:
        arguments["num_inference_steps"] = options.steps
    with quiet(pipe):
        calibration = calibrate(pipe, prompts, layer_lags=options.layer_lags, progress=True, **arguments)
    calibration.save(options.out)
    print(calibration, f"\nCalibration: {options.out}", sep="\n")


def train_refiner_of(options: argparse.Namespace) -> None:
    """Trains a small refiner that answers for a flow model at some steps."""
    from accel.contest import quiet
    from accel.samplers import train_refiner

    prompts = _recorded_prompts(options.prompts, options.model)
    pipe, arguments = _load(options.model, options), _call_arguments(options)
    if options.steps is not None:
        arguments["step_counts"] = (options.steps,)
    with quiet(pipe), _waiting("training") as status:
        refiner = train_refiner(pipe, prompts, minutes=options.minutes, progress=status.update, **arguments)
    refiner.save(options.out)
    facts = refiner.facts
    print(f"{facts.updates} updates; of the change between two answers it misses {facts.error:.2f}", end="")
    print(f" (the last answer 1.00, a straight line through two {facts.extrapolated:.2f})\nRefiner: {options.out}")


def inspect_model(options: argparse.Namespace) -> None:
    """What the pipeline consists of."""
    from accel.anatomy import inspect

    print(inspect(_load(options.model, options)))


def list_presets(options: argparse.Namespace) -> None:
    """The presets and what they promise."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from accel.presets import PRESETS

    table = Table("preset", "fidelity to the unaccelerated output", "recipe", box=SIMPLE_HEAD, pad_edge=False)
    for name, preset in PRESETS.items():
        table.add_row(name, preset.promise, preset.recipe.label)
    Console().print(table)


def _pocket_prompts(prompts: Sequence[str]) -> Sequence[str]:
    """The prompts, once all are known to be in the grammar that the pocket model and its verifier understand."""
    from accel.pocket.scenes import Caption

    for prompt in prompts:
        Caption.parse(prompt)
    return prompts


def _recorded_prompts(given: str, model: str) -> Sequence[str]:
    """The lines of a file, or so many of the pocket model's own captions."""
    if given.isdigit():
        if not model.startswith("pocket:"):
            raise ValueError(
                f"{model!r} has no prompts of its own: give a file with one prompt per line, --prompts FILE."
            )
        from accel import pocket

        return pocket.prompts(int(given), seed=3)
    try:
        text = Path(given).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the prompts in {given} cannot be read: {error}.") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def _compare(
    pipe: Any,
    prompts: Sequence[str],
    recipes: Sequence[str],
    seeds: Sequence[int],
    options: argparse.Namespace,
    verify: Any,
) -> None:
    from accel.comparison import compare

    result = compare(
        pipe,
        recipes,
        prompts,
        seeds,
        steps=options.steps,
        repeats=options.repeats,
        call_arguments=_call_arguments(options),
        verify=verify,
        fewer_steps=options.fewer_steps,
        fps=options.fps,
    )
    _show(result, options.out)


def _show(result: Comparison, folder: Path) -> None:
    from rich.console import Console

    from accel.tables import terminal_width

    with _waiting(f"writing {folder}"):
        page = result.save(folder)
    console = Console(width=terminal_width(), highlight=False)
    console.print(result.table())
    for line in [*result.headlines(), *result.cautions()]:
        console.print(line, markup=False, soft_wrap=True)
    console.print(
        f"\nPage:  {page}\nData:  {folder / 'comparison.json'}\nFilms: {folder}/prompt-*", markup=False, soft_wrap=True
    )


def _what_was_saved(interrupt: KeyboardInterrupt, options: argparse.Namespace) -> str:
    if hasattr(interrupt, "summary") or hasattr(interrupt, "folder"):
        return str(interrupt)  # renders and tunings say themselves what is done and how to go on
    partial: Comparison | None = getattr(interrupt, "partial", None)
    if partial is None:
        return "interrupted; nothing was saved."
    page = partial.save(options.out)
    runs = sum(row.runs for row in partial.rows)
    return f"interrupted; the {runs} runs that were complete are in {page}."


def _load(model: str, options: argparse.Namespace) -> Any:
    from accel.loading import load_pipeline

    with _waiting(f"loading {model}"):
        return load_pipeline(model, dtype=options.dtype, device=options.device)


def _waiting(text: str) -> AbstractContextManager[Any]:
    from rich.console import Console

    return Console(stderr=True).status(text)


def _call_arguments(options: argparse.Namespace) -> dict[str, Any]:
    width, height = options.size or (None, None)
    named = {
        "guidance_scale": options.guidance,
        "width": width,
        "height": height,
        "num_frames": options.frames,
    }
    return {name: value for name, value in named.items() if value is not None}


def _size(text: str) -> tuple[int, int]:
    """ "128" or "832x480" as (width, height)."""
    width, _, height = text.lower().partition("x")
    try:
        return int(width), int(height or width)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write 128 or 832x480") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="accel", description="Makes diffusers pipelines faster without retraining, and proves it."
    )
    parser.add_argument("--traceback", action="store_true", help="show where an error comes from")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_compare(commands)
    _add_app(commands)
    _add_render(commands)
    _add_bench(commands)
    _add_frontier(commands)
    _add_trajectory(commands)
    _add_levers(commands)
    _add_tune(commands)
    _add_calibrate(commands)
    _add_refine(commands)
    _add_inspect(commands)
    listing = commands.add_parser("presets", help="list the presets and what they promise")
    listing.set_defaults(command=list_presets)
    return parser


def _add_demo(commands: Any) -> None:
    command = commands.add_parser(
        "demo", help="generate films with the pocket model, unaccelerated and accelerated, and show both"
    )
    command.add_argument("--preset", nargs="+", default=["balanced", "fast"], help="presets or recipe files")
    command.add_argument("--prompt", action="append", help="a prompt of your own; may be repeated")
    command.add_argument("--clips", type=int, default=4, help="how many prompts where none is given (4)")
    command.add_argument("--seed", type=int, nargs="+", default=[0], help="seeds for the noise (0)")
    _add_measurement(command, out="out/demo", steps=50)
    _add_films(command)
    command.set_defaults(command=demo)


def _add_compare(commands: Any) -> None:
    command = commands.add_parser("compare", help="measure recipes on a pipeline against it unaccelerated")
    _add_model(command)
    command.add_argument("--recipes", nargs="+", default=["balanced", "fast"], help="presets or recipe files")
    command.add_argument("--prompts", nargs="+", default=[], help="the prompts")
    command.add_argument("--seeds", type=int, nargs="+", default=[0], help="each prompt runs once per seed (0)")
    _add_measurement(command, out="out/compare", steps=None)
    _add_films(command)
    command.set_defaults(command=compare_model)


def _add_app(commands: Any) -> None:
    command = commands.add_parser("app", help="compare in a browser: both clips frame by frame, sweeps, blind votes")
    command.add_argument("--model", default="pocket:video", help="chosen at first: a pocket model, a folder or an id")
    command.add_argument("--port", type=int, help="of the server (the first free one from 7860)")
    command.add_argument("--host", default="127.0.0.1", help="0.0.0.0 opens it to the network (this machine only)")
    command.add_argument("--share", action="store_true", help="open it to everybody through gradio's relay")
    command.add_argument("--open", action="store_true", help="open a browser")
    command.add_argument("--out", type=Path, help="folder to keep votes and tunings in (none: gone at the end)")
    command.add_argument(
        "--allow", type=Path, nargs="+", default=[], metavar="FOLDER", help="folders that models may be loaded from"
    )
    command.add_argument("--no-hub", action="store_true", help="load no models of the Hugging Face hub")
    _add_machine(command)
    command.set_defaults(command=serve_app)


def _add_render(commands: Any) -> None:
    command = commands.add_parser(
        "render", help="render every line of a manifest; run it again after a crash, and it goes on where it stopped"
    )
    command.add_argument("manifest", metavar="MANIFEST", type=Path, help=".jsonl, .csv, or a file rendered earlier")
    command.add_argument("--out", type=Path, default=Path("renders"), help="folder for the results (renders)")
    command.add_argument("--model", help="for lines that name none: pocket:video, a diffusers folder, or a model id")
    command.add_argument("--recipe", help="preset, recipe file or off, for lines that name none (balanced)")
    command.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="a field for all lines")
    command.add_argument(
        "--grid", action="append", default=[], metavar="FIELD=A,B", help="every line with each of these values"
    )
    command.add_argument("--output", metavar="TEMPLATE", help="file names, such as {slug}-{seed}-{steps}")
    command.add_argument("--shard", metavar="I/N", help="only part I of N; the parts may run at once, on one disk")
    command.add_argument("--workers", type=int, help="processes, each with its own GPU if there are any (1)")
    command.add_argument("--engine", choices=["local", "ray"], default="local", help="this machine, or a Ray cluster")
    command.add_argument("--address", help="of the cluster: auto, host:6379, ray://host:10001 (a new one, here)")
    command.add_argument("--retry-failed", action="store_true", help="try jobs again that failed in an earlier run")
    command.add_argument(
        "--batch",
        type=_batch,
        default=1,
        help="jobs per call, or auto for small ones; above 1 last bits may differ (1)",
    )
    command.add_argument("--metrics", action="store_true", help="compare each job with its unaccelerated self")
    command.add_argument("--no-embed", dest="embed", action="store_false", help="no settings inside the files")
    command.add_argument("--dry-run", action="store_true", help="check everything and say what would be rendered")
    _add_machine(command)
    command.set_defaults(command=render_manifest)


def _add_bench(commands: Any) -> None:
    command = commands.add_parser(
        "bench", help="tune, and measure what was found against presets, single levers, fewer steps and other libraries"
    )
    command.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        default="pocket:video",
        help="pocket:video, a diffusers folder, or a model id",
    )
    command.add_argument(
        "--prompts", default="22", help="a file with one prompt per line, or how many of the pocket model's own (22)"
    )
    command.add_argument("--clips", type=int, default=8, help="how many of them to judge on; the others tune (8)")
    command.add_argument(
        "--qualities", type=float, nargs="*", default=[24, 30, 40], help="PSNRs to tune for (24 30 40)"
    )
    command.add_argument("--speeds", type=float, nargs="*", default=[2, 3], help="speed-ups to tune for (2 3)")
    command.add_argument("--minutes", type=float, default=6.0, help="for each tuning (6)")
    command.add_argument("--out", type=Path, default=Path("out/bench"), help="folder for the results (out/bench)")
    _add_call(command, steps=50)
    _add_machine(command)
    command.set_defaults(command=measure_bench)


def _add_frontier(commands: Any) -> None:
    command = commands.add_parser(
        "frontier", help="measure every method, fewer steps and other libraries on the pocket model"
    )
    command.add_argument("--clips", type=int, default=4, help="how many prompts (4)")
    _add_measurement(command, out="out/frontier", steps=50)
    command.set_defaults(command=measure_frontier)


def _add_trajectory(commands: Any) -> None:
    command = commands.add_parser(
        "trajectory", help="measure guidance methods, samplers and compositions of levers on the pocket model"
    )
    command.add_argument("--clips", type=int, default=48, help="prompts that the compositions are judged on (48)")
    command.add_argument("--out", type=Path, default=Path("out/trajectory"), help="folder for the results")
    _add_call(command, steps=50)
    _add_machine(command)
    command.set_defaults(command=measure_trajectory)


def _add_levers(commands: Any) -> None:
    command = commands.add_parser("levers", help="measure every lever on and off, on the pocket model at its largest")
    command.add_argument("--clips", type=int, default=2, help="how many prompts (2)")
    command.add_argument("--out", type=Path, default=Path("out/levers"), help="folder for the results")
    _add_call(command, steps=50)
    _add_machine(command)
    command.set_defaults(command=measure_levers, size=(128, 128), frames=33)


def _add_tune(commands: Any) -> None:
    command = commands.add_parser(
        "tune", help="find the fastest recipe that keeps a quality, or the most faithful one at a speed, with evidence"
    )
    _add_model(command)
    command.add_argument("--min-psnr", type=float, help="dB against the unaccelerated output, such as 30")
    command.add_argument("--min-ssim", type=float, help="such as 0.95")
    command.add_argument("--max-lpips", type=float, help="such as 0.1; needs the package lpips")
    command.add_argument("--target-speedup", type=float, help="instead of a quality: wall-clock speed-up, such as 2")
    command.add_argument("--coverage", type=float, default=0.95, help="share of all prompts that must keep it (0.95)")
    command.add_argument(
        "--prompts", default="14", help="a file with one prompt per line, or how many of the pocket model's own (14)"
    )
    command.add_argument("--held-out", help="a file with the prompts to judge on, in place of splitting --prompts")
    command.add_argument("--seed", type=int, default=0, help="for the noise (0)")
    command.add_argument("--minutes", type=float, default=15.0, help="time for all of it (15)")
    command.add_argument(
        "--levers", nargs="+", default=["cache", "attention", "guidance", "sampler"], help="those to choose from (all)"
    )
    command.add_argument("--generic", action="store_true", help="only methods without constants of this model")
    command.add_argument("--known", type=Path, help="file of earlier tunings to begin with and to add to (your own)")
    command.add_argument("--no-known", action="store_true", help="begin without earlier tunings, and remember nothing")
    command.add_argument("--out", type=Path, default=Path("out/tune"), help="folder for the results (out/tune)")
    _add_call(command, steps=None)
    _add_machine(command)
    command.set_defaults(command=tune_model)


def _add_calibrate(commands: Any) -> None:
    command = commands.add_parser(
        "calibrate", help="record a model on a few prompts for TeaCache, MagCache, SmoothCache, schedules, thresholds"
    )
    command.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        default="pocket:video",
        help="pocket:video, a diffusers folder, or a model id",
    )
    command.add_argument(
        "--prompts", default="10", help="a file with one prompt per line, or how many of the pocket model's own (10)"
    )
    command.add_argument("--out", type=Path, default=Path("calibration.json"), help="the file (calibration.json)")
    command.add_argument(
        "--layer-lags", type=int, default=3, help="steps in a row that SmoothCache may reuse; 0 saves memory (3)"
    )
    _add_call(command, steps=None)
    _add_machine(command)
    command.set_defaults(command=calibrate_model)


def _add_refine(commands: Any) -> None:
    command = commands.add_parser("refine", help="train a small refiner for a flow model, for the sampler FlowTurbo")
    command.add_argument("model", metavar="MODEL", help="pocket:video, a diffusers folder, or a model id")
    command.add_argument(
        "--prompts", default="96", help="a file with one prompt per line, or how many of the pocket model's own (96)"
    )
    command.add_argument("--out", type=Path, required=True, help="folder for the refiner")
    command.add_argument("--minutes", type=float, default=10.0, help="of training, besides the recording (10)")
    _add_call(command, steps=None)
    _add_machine(command)
    command.set_defaults(command=train_refiner_of)


def _add_inspect(commands: Any) -> None:
    command = commands.add_parser("inspect", help="show what a pipeline consists of")
    _add_model(command)
    _add_machine(command)
    command.set_defaults(command=inspect_model)


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", help="pocket:video, a diffusers folder, or a model id")


def _add_machine(command: argparse.ArgumentParser) -> None:
    command.add_argument("--dtype", help="torch type by name, such as bfloat16")
    command.add_argument("--device", help="torch device, such as cuda or cpu")


def _add_measurement(command: argparse.ArgumentParser, out: str, steps: int | None) -> None:
    command.add_argument("--out", type=Path, default=Path(out), help=f"folder for the results ({out})")
    _add_call(command, steps)
    command.add_argument("--repeats", type=int, default=1, help="timed runs per prompt and seed (1)")
    _add_machine(command)


def _add_call(command: argparse.ArgumentParser, steps: int | None) -> None:
    command.add_argument("--steps", type=int, default=steps, help="inference steps")
    command.add_argument("--guidance", type=float, help="guidance scale")
    command.add_argument("--size", type=_size, help="size in pixels: 128 or 832x480")
    command.add_argument("--frames", type=int, help="number of frames")


def _add_films(command: argparse.ArgumentParser) -> None:
    command.add_argument("--fps", type=float, default=8.0, help="frames per second of the films (8)")
    command.add_argument(
        "--fewer-steps",
        type=int,
        nargs="*",
        default=True,
        help="counts of steps to measure unaccelerated; none switches them off; left out, those of equal time",
    )
