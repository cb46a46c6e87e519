"""`accel fit`: a recipe for one model at one setting, whose sums of computed outputs are fitted along its own runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from accel.commands.options import (
    add_call,
    add_command,
    add_inputs,
    add_machine,
    add_model,
    call_arguments,
    load,
    recorded_prompts,
    with_lora,
)
from accel.terminal import show


def add_fit(commands: Any) -> None:
    command = add_command(
        commands,
        "fit",
        "fit a schedule of few computed steps to one model at one setting, for many clips of it",
        "fit ./wan --prompts prompts.txt --compute 0.25 --steps 50 --guidance 6 --out wan-50.json",
        "fit pocket:video --prompts 6",
    )
    add_model(command, default="pocket:video")
    command.add_argument(
        "--prompts",
        default="6",
        help="a file with one prompt per line, 4 to 8, or how many of the pocket model's own (6)",
    )
    command.add_argument("--compute", type=float, default=0.25, help="share of the steps that compute (0.25)")
    command.add_argument("--out", type=Path, default=Path("fitted.json"), help="the recipe file (fitted.json)")
    add_call(command, steps=None)
    add_inputs(command)
    add_machine(command)
    command.set_defaults(command=fit_model, out_is_file=True)


def fit_model(options: argparse.Namespace) -> None:
    """Writes a recipe with a FittedSchedule: an ordinary run of each prompt, and three accelerated ones."""
    from accel.caching import FittedSchedule, measure
    from accel.measure.pipeline_runs import without_progress_bars
    from accel.recipe import Recipe

    method, prompts = FittedSchedule(options.compute), recorded_prompts(options.prompts, options.model)
    pipe = load(options.model, options)
    arguments = call_arguments(options, pipe)
    if options.steps is not None:
        arguments["num_inference_steps"] = options.steps
    with with_lora(pipe, options), without_progress_bars(pipe):
        fitted = measure(pipe, prompts, method, progress=True, **arguments)
    Recipe(cache=fitted, name=options.out.stem).save(options.out)
    steps = len(fitted.fit.weights) if fitted.fit is not None else 0
    show(f"Fitted along {len(prompts)} prompts in {steps} steps.\n\nRecipe: {options.out}")
    show(f"See what it gives: accel inspect {options.model} --check {options.out} --prompt ...")
