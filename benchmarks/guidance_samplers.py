"""What guidance, samplers and their composition with a cache are worth on the pocket model, measured by one
command: `python -m benchmarks.guidance_samplers` (`make trajectory`).

Two kinds of questions. Recipes against the same pipeline unaccelerated, in wall-clock time, fidelity and prompt
adherence: guidance methods, compositions of levers, and the methods that go another way through the latents. And
solvers with few steps against a run of a thousand, because a solver may be nearer to the truth than what it stands for.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from accel import pocket
from accel.caching import OptimalSchedule
from accel.cli import run
from accel.commands.options import add_call, add_machine, call_arguments, load
from accel.files import write_whole
from accel.measure.comparison import compare
from accel.measure.measurements import Verifier
from accel.measure.metrics import psnr
from accel.measure.pipeline_runs import without_progress_bars
from accel.measure.results import Comparison
from accel.recipe import Recipe
from accel.samplers import (
    AdamsBashforth,
    AdaptiveGuidance,
    DPMSolver,
    Euler,
    FlowTurbo,
    GuidanceDelta,
    GuidanceInterval,
    ModelSwitch,
    PseudoCorrector,
    ReDi,
    Sampler,
    Shift,
    SigmaTable,
    TrajectoryBank,
    UniPC,
    calibrate_linear,
    search_sigmas,
)
from accel.session import Session, bare
from accel.terminal import show
from benchmarks.command import command_of

TRUTH = 1000  # steps of the run that counts as converged


@dataclass(frozen=True)
class Converged:
    """One sampler against the converged run: PSNR of its clips, mean over the prompts, and seconds for all of them."""

    label: str
    steps: int
    psnr: float
    seconds: float


@dataclass(frozen=True)
class Results:
    """Everything that was measured: comparisons by their title, and solvers against the converged run."""

    comparisons: dict[str, Comparison]
    solvers: list[Converged]


def measure(
    pipe: Any,
    prompts: Sequence[str],
    calibration: Sequence[str],
    out: Path,
    *,
    steps: int = 50,
    clips: int = 6,
    call_arguments: Mapping[str, Any] | None = None,
    verify: Verifier | None = None,
) -> Results:
    """Measures everything on the pocket video model, and writes what there is to `out` after each part.

    calibration: prompts for what must be fitted. prompts: those that the compositions are judged on; the first `clips`
    of them are for all other rows.
    """
    arguments = dict(call_arguments or {})
    results, few = Results({}, []), steps * 2 // 5
    with without_progress_bars(pipe):
        found = search_sigmas(pipe, calibration, steps=few, **arguments).sampler
        results.solvers.extend(converged(pipe, prompts[:clips], found, steps, arguments))
        save(results, out)
        guided = guidance(pipe, calibration, steps, arguments)
        others = ways(pipe, calibration, steps, arguments, out / "bank")
    parts = {
        "guidance": (guided, clips, (0.8, 0.7, 0.6, 0.5)),
        "other ways": (others, clips, (0.7, 0.5, 0.25, 0.08)),
        "composition": (composed(found), len(prompts), (0.4, 0.25, 0.16)),
    }
    for title, (entries, count, shares) in parts.items():
        fewer = [round(steps * share) for share in shares]
        results.comparisons[title] = compare(
            pipe, entries, prompts[:count], steps=steps, call_arguments=arguments, verify=verify, fewer_steps=fewer
        )
        save(results, out)
    return results


def guidance(
    pipe: Any, calibration: Sequence[str], steps: int, arguments: Mapping[str, Any]
) -> list[tuple[str, Recipe]]:
    """The guidance methods by themselves."""
    methods = {
        "AdaptiveGuidance": AdaptiveGuidance(),
        "GuidanceDelta": GuidanceDelta(),
        "GuidanceInterval": GuidanceInterval(),
        "LinearAG": calibrate_linear(pipe, calibration, num_inference_steps=steps, **arguments),
    }
    return [(label, Recipe(guidance=method)) for label, method in methods.items()]


def composed(sampler: Sampler) -> list[tuple[str, Recipe]]:
    """One to three levers together; the sampler takes two fifths of the steps."""
    fewer = replace(sampler, steps=0.4)
    cache = OptimalSchedule(0.6)
    adaptive = AdaptiveGuidance()
    return [
        ("cache", Recipe(cache=OptimalSchedule(0.22))),
        ("cache + guidance", Recipe(cache=OptimalSchedule(0.3), guidance=adaptive)),
        ("sampler", Recipe(sampler=fewer)),
        ("sampler + guidance", Recipe(sampler=fewer, guidance=adaptive)),
        ("sampler + cache", Recipe(sampler=fewer, cache=cache)),
        ("sampler + cache + guidance", Recipe(sampler=fewer, cache=cache, guidance=adaptive)),
    ]


def ways(
    pipe: Any, calibration: Sequence[str], steps: int, arguments: Mapping[str, Any], folder: Path
) -> list[tuple[str, Recipe]]:
    """Stored trajectories, a refiner, two models, and a distilled one."""
    known = [prompt for prompt in pocket.prompts(480, seed=5) if prompt not in calibration]
    bank = TrajectoryBank.build(
        pipe, known[:64], steps=steps, key=steps // 5, landing=[steps * 2 // 5, steps * 3 // 5], batch=16, **arguments
    )
    bank.save(folder)
    stored = str(folder)
    unguided = GuidanceInterval(low=1.0, unit="sigma")
    distilled = ModelSwitch("pocket:few", 1.0, steps=4 / steps, sigmas=Shift())
    # Five guided steps of the base model to where the distilled model's second phase begins.
    levels = SigmaTable((1.0, 0.98, 0.96, 0.94, 0.92, 0.9, 0.75, 0.5))
    after = ModelSwitch("pocket:few", 0.9, steps=8 / steps, sigmas=levels)
    refiner = str(pocket.folder("refiner"))
    return [
        ("ReDi, lands at 40 %", Recipe(sampler=ReDi(stored, radius=2.0, landing=steps * 2 // 5))),
        ("ReDi, lands at 60 %", Recipe(sampler=ReDi(stored, radius=2.0, landing=steps * 3 // 5))),
        ("Heun start, half the steps", Recipe(sampler=FlowTurbo(refined=0.0, steps=0.5))),
        ("FlowTurbo, half the steps", Recipe(sampler=FlowTurbo(refiner=refiner, steps=0.5))),
        (
            "FlowTurbo, the paper's order, half the steps",
            Recipe(sampler=FlowTurbo(refiner=refiner, placement="last", steps=0.5)),
        ),
        ("small first (T-Stitch)", Recipe(sampler=ModelSwitch("pocket:small", 0.93, side="above"))),
        ("small last (Hybrid-SD)", Recipe(sampler=ModelSwitch("pocket:small", 0.5))),
        (
            "base, then few (diversity distillation)",
            Recipe(sampler=after, guidance=GuidanceInterval(0.9, unit="sigma")),
        ),
        ("few, 4 steps", Recipe(sampler=distilled, guidance=unguided)),
    ]


def converged(
    pipe: Any, prompts: Sequence[str], found: Sampler, steps: int, arguments: Mapping[str, Any]
) -> list[Converged]:
    """The samplers at `steps` and two fifths of them against Euler steps in great number, all prompts in one batch."""
    few = steps * 2 // 5
    entries: list[tuple[str, int, Sampler]] = [("Euler, the default", steps, Euler())]
    solvers: list[Sampler] = [Euler(), DPMSolver(), UniPC(), AdamsBashforth(), PseudoCorrector()]
    entries += [(type(sampler).__name__, few, sampler) for sampler in solvers]
    entries.append((f"{type(found).__name__}, searched levels", few, found))

    def clips(sampler: Sampler, count: int) -> tuple[Any, float]:
        generators = [torch.Generator().manual_seed(place) for place in range(len(prompts))]
        start = time.perf_counter()
        with bare(pipe), Session(pipe, Recipe(sampler=sampler)):
            frames = pipe(list(prompts), num_inference_steps=count, generator=generators, **arguments).frames
        return frames, time.perf_counter() - start

    truth, _ = clips(Euler(), TRUTH)
    rows = []
    for label, count, sampler in entries:
        videos, seconds = clips(sampler, count)
        quality = float(np.mean([psnr(video, true) for video, true in zip(videos, truth, strict=True)]))
        rows.append(Converged(label, count, quality, seconds))
    return rows


def save(results: Results, out: Path) -> None:
    """Writes trajectory.json and trajectory.txt."""
    out.mkdir(parents=True, exist_ok=True)
    data = {title: comparison.to_dict() for title, comparison in results.comparisons.items()}
    whole = json.dumps(data | {"solvers": [asdict(row) for row in results.solvers]}, indent=1)
    write_whole(out / "trajectory.json", whole)
    write_whole(out / "trajectory.txt", text_of(results) + "\n")


def text_of(results: Results) -> str:
    """The tables."""
    lines = [f"{row.label:40s} {row.steps:5d} steps {row.psnr:7.2f} dB {row.seconds:8.1f} s" for row in results.solvers]
    parts = ["\n".join([f"solvers, against {TRUTH} Euler steps", "", *lines])]
    parts += [f"{title}\n\n{comparison}" for title, comparison in results.comparisons.items()]
    return "\n\n".join(parts)


def trajectory(options: argparse.Namespace) -> None:
    """Measure guidance methods, samplers and compositions of levers."""
    prompts = pocket.prompts(options.clips + 6, seed=12)
    results = measure(
        load("pocket:video", options),
        prompts[6:],
        prompts[:6],
        options.out,
        steps=options.steps,
        call_arguments=call_arguments(options),
        verify=pocket.verify,
    )
    show(text_of(results), f"\nTable and data: {options.out}")


def main(argv: Sequence[str] | None = None) -> int:
    command = command_of("benchmarks.guidance_samplers", trajectory)
    command.add_argument("--clips", type=int, default=48, help="prompts that the compositions are judged on (48)")
    command.add_argument("--out", type=Path, default=Path("out/trajectory"), help="folder for the results")
    add_call(command, steps=50)
    add_machine(command)
    return run(command.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
