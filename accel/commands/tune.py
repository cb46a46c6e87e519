"""`accel tune` and `accel calibrate`: what is learned about one model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from accel.commands.options import (
    SOME_FAILED,
    add_calibration,
    add_call,
    add_command,
    add_inputs,
    add_machine,
    add_model,
    call_arguments,
    load,
    recorded_prompts,
    verifier,
    with_lora,
)
from accel.terminal import show, waiting


def add_tune(commands: Any) -> None:
    command = add_command(
        commands,
        "tune",
        "find the fastest recipe that keeps a quality, or the most faithful one at a speed, with evidence",
        "tune ./wan --prompts prompts.txt --min-psnr 30 --minutes 60",
        "tune pocket:video --target-speedup 2",
    )
    add_model(command)
    command.add_argument("--min-psnr", type=float, help="dB against the unaccelerated output, such as 30")
    command.add_argument("--min-ssim", type=float, help="such as 0.95")
    command.add_argument("--max-lpips", type=float, help="such as 0.1; needs the package lpips")
    command.add_argument("--min-snr", type=float, help="dB of a sound against the unaccelerated one, such as 20")
    command.add_argument("--target-speedup", type=float, help="instead of a quality: wall-clock speed-up, such as 2")
    command.add_argument("--coverage", type=float, default=0.95, help="share of all prompts that must keep it (0.95)")
    command.add_argument(
        "--prompts", default="30", help="a file with one prompt per line, or how many of the pocket model's own (30)"
    )
    command.add_argument("--held-out", help="a file with the prompts to judge on, in place of splitting --prompts")
    command.add_argument("--seed", type=int, default=0, help="for the noise (0)")
    command.add_argument("--minutes", type=float, default=15.0, help="time for all of it (15)")
    command.add_argument(
        "--levers",
        nargs="+",
        default=["cache", "attention", "guidance", "sampler", "precision"],
        help="those to choose from (all but resolution, which makes other pictures)",
    )
    add_calibration(command)
    command.add_argument("--generic", action="store_true", help="only methods without constants of this model")
    command.add_argument("--out", type=Path, default=Path("out/tune"), help="folder for the results (out/tune)")
    add_call(command, steps=None)
    add_inputs(command)
    add_machine(command)
    command.set_defaults(command=tune_model)


def add_calibrate(commands: Any) -> None:
    command = add_command(
        commands,
        "calibrate",
        "record a model on a few prompts for TeaCache, MagCache, SmoothCache, schedules, thresholds",
        "calibrate ./wan --prompts prompts.txt --steps 50 --guidance 6 --out wan.json",
    )
    add_model(command, default="pocket:video")
    command.add_argument(
        "--prompts", default="10", help="a file with one prompt per line, or how many of the pocket model's own (10)"
    )
    command.add_argument("--out", type=Path, default=Path("calibration.json"), help="the file (calibration.json)")
    command.add_argument(
        "--layer-lags", type=int, default=3, help="steps in a row that SmoothCache may reuse; 0 saves memory (3)"
    )
    add_call(command, steps=None)
    add_inputs(command)
    add_machine(command)
    command.set_defaults(command=calibrate_model, out_is_file=True)


def tune_model(options: argparse.Namespace) -> int:
    """The fastest recipe that keeps a quality, or the most faithful one at a speed."""
    from accel.tuning import GoalNotMet, tune
    from accel.tuning.api import check_arguments
    from accel.tuning.clip_split import split_clips
    from accel.tuning.evidence import hint, sentence
    from accel.tuning.goal import goal_of

    prompts = recorded_prompts(options.prompts, options.model)
    held_out = None if options.held_out is None else recorded_prompts(options.held_out, options.model)
    check_arguments(options.minutes, options.levers)
    qualities = (options.min_psnr, options.min_ssim, options.max_lpips)
    goal_of(*qualities, (), options.target_speedup, options.coverage, options.min_snr)
    split_clips(prompts, held_out, options.seed)
    pipe = load(options.model, options)
    with with_lora(pipe, options), waiting("tuning") as status:
        try:
            recipe = tune(
                pipe, prompts, min_psnr=options.min_psnr, min_ssim=options.min_ssim, max_lpips=options.max_lpips,
                target_speedup=options.target_speedup, coverage=options.coverage, held_out=held_out, seed=options.seed,
                steps=options.steps, minutes=options.minutes, levers=options.levers, generic=options.generic,
                call_arguments=call_arguments(options, pipe), verify=verifier(options.model), out=options.out,
                tell=status.update, calibration=options.calibration, min_snr=options.min_snr,
            )  # fmt: skip
        except GoalNotMet as error:
            show(f"accel: {error}", file=sys.stderr)
            if error.nearest is not None:
                show(f"It is in {options.out / 'recipe.json'}, with the evidence.", file=sys.stderr)
            return SOME_FAILED
    show(sentence(recipe.evidence), *filter(None, [hint(recipe.evidence)]))
    show(f"\nRecipe:   {options.out / 'recipe.json'}")
    show(f"Evidence: {options.out / 'evidence.html'}")
    return 0


def calibrate_model(options: argparse.Namespace) -> None:
    """Records a model once, for all the caches that need to know something about it."""
    from accel.caching import calibrate
    from accel.measure.pipeline_runs import without_progress_bars

    prompts = recorded_prompts(options.prompts, options.model)
    pipe = load(options.model, options)
    arguments = call_arguments(options, pipe)
    if options.steps is not None:
        arguments["num_inference_steps"] = options.steps
    with with_lora(pipe, options), without_progress_bars(pipe):
        calibration = calibrate(pipe, prompts, layer_lags=options.layer_lags, progress=True, **arguments)
    calibration.save(options.out)
    show(calibration, f"\nCalibration: {options.out}")
