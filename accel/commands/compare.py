"""`accel demo` and `accel compare`: the same prompts and seeds, unaccelerated and accelerated."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.commands.options import (
    add_calibration,
    add_command,
    add_inputs,
    add_measurement,
    add_model,
    calibrated_recipes,
    call_arguments,
    load,
    pocket_prompts,
    with_lora,
)
from accel.terminal import plain, waiting

if TYPE_CHECKING:
    from accel.measure.results import Comparison


def add_demo(commands: Any) -> None:
    command = add_command(
        commands,
        "demo",
        "generate videos with the pocket model, unaccelerated and accelerated, and show both",
        "demo --clips 2 --preset balanced fast",
    )
    command.add_argument("--preset", nargs="+", default=["balanced", "fast"], help="presets or recipe files")
    command.add_argument("--prompt", action="append", help="a prompt of your own; may be repeated")
    command.add_argument("--clips", type=int, default=4, help="how many prompts where none is given (4)")
    command.add_argument("--seed", type=int, nargs="+", default=[0], help="seeds for the noise (0)")
    add_calibration(command)
    add_measurement(command, out="out/demo", steps=50)
    _add_videos(command)
    command.set_defaults(command=demo)


def add_compare(commands: Any) -> None:
    command = add_command(
        commands,
        "compare",
        "measure recipes on a pipeline against it unaccelerated",
        'compare ./wan --prompts "a corgi surfing" --recipes balanced mine.json --out out/wan',
    )
    add_model(command)
    command.add_argument("--recipes", nargs="+", default=["balanced", "fast"], help="presets or recipe files")
    command.add_argument("--prompts", nargs="+", default=[], help="the prompts")
    command.add_argument("--seeds", type=int, nargs="+", default=[0], help="each prompt runs once per seed (0)")
    add_calibration(command)
    add_measurement(command, out="out/compare", steps=None)
    add_inputs(command)
    _add_videos(command)
    command.set_defaults(command=compare_model)


def demo(options: argparse.Namespace) -> None:
    """Videos by the pocket model, unaccelerated and accelerated."""
    from accel import pocket

    prompts = pocket_prompts(options.prompt or pocket.prompts(options.clips, options.seed[0]))
    _compare("pocket:video", prompts, options.preset, options.seed, options, verify=pocket.verify)


def compare_model(options: argparse.Namespace) -> None:
    """Recipes against any pipeline."""
    prompts, verify = options.prompts, None
    if options.model.startswith("pocket:"):
        from accel import pocket

        prompts, verify = pocket_prompts(prompts or pocket.prompts(4, 0)), pocket.verify
    if not prompts:
        raise ValueError('which prompts? For example: --prompts "a corgi surfing".')
    _compare(options.model, prompts, options.recipes, options.seeds, options, verify=verify)


def _compare(
    model: str,
    prompts: Sequence[str],
    recipes: Sequence[str],
    seeds: Sequence[int],
    options: argparse.Namespace,
    verify: Any,
) -> None:
    from accel.measure.comparison import compare

    chosen = calibrated_recipes(recipes, options)
    pipe = load(model, options)
    with with_lora(pipe, options):
        result = compare(
            pipe,
            chosen,
            prompts,
            seeds,
            steps=options.steps,
            repeats=options.repeats,
            call_arguments=call_arguments(options, pipe),
            verify=verify,
            fewer_steps=options.fewer_steps,
            by_lever=options.by_lever,
            flops=options.flops,
            fps=options.fps,
        )
    _show(result, options.out)


def _show(result: Comparison, folder: Path) -> None:
    from rich.console import Console

    from accel.measure.by_lever import levers_table
    from accel.measure.contradictions import contradictions
    from accel.measure.perceptual import missing
    from accel.measure.tables import terminal_width

    with waiting(f"writing {folder}"):
        page = result.save(folder)
    console = Console(width=terminal_width(), highlight=False)
    console.print(result.table())
    console.print(result.phases())
    if result.apart:
        console.print(levers_table(result))
    console.print(result.measures())
    further = [*contradictions(result), *missing(any(row.lpips is not None for row in result.rows))]
    for line in [*result.headlines(), *result.cautions(), *further]:
        console.print(plain(line), soft_wrap=True)
    files = f"\nPage:  {page}\nData:  {folder / 'comparison.json'}\nClips: {folder}/prompt-*"
    console.print(plain(files), soft_wrap=True)


def _add_videos(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--by-lever",
        action="store_true",
        help="run each recipe also without each lever, and each lever alone: the seconds and decibels of each",
    )
    command.add_argument("--flops", action="store_true", help="count operations too; takes another run of each")
    command.add_argument("--fps", type=float, default=8.0, help="frames per second of the videos (8)")
    command.add_argument(
        "--fewer-steps",
        type=int,
        nargs="*",
        default=True,
        help="counts of steps to measure unaccelerated; none switches them off; left out, those of equal time",
    )
