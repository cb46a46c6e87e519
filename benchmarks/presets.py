"""Where the presets' numbers come from: `python -m benchmarks.presets` (`make presets`).

Every setting of a grid runs on every judge at its higher guidance scale, under both schedulers and at both lengths
(`benchmarks.holds`). A preset with a promise takes of them the one that computes least of those that keep it: in 95 %
of all clips, and on each judge in all but one of twelve. `turbo`, which promises nothing, takes the one that computes
least and is above fewer steps with as many calls in the mean of every judge. The table chooses with one judge left out
and shows what that choice does on it; the last line of each preset is chosen by all. With `--verify` the presets as
they are run on further prompts.

Runs are kept in OUT as they end; the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from accel.caching import OptimalSchedule
from accel.presets import PRESETS
from accel.recipe import Recipe
from benchmarks.command import add_judges
from benchmarks.judged_runs import Bench, Case, Run, cases, fewer, named, read
from benchmarks.judges import JUDGES
from benchmarks.judges.home import HOME

GRID = [
    OptimalSchedule(compute, guard=guard, fewest=fewest)
    for compute, fewest, guards in (
        (0.72, 23, (0.0, 0.15, 0.25)),
        (0.62, 23, (0.0, 0.15, 0.25)),
        (0.52, 18, (0.0, 0.15, 0.25)),
        (0.42, 16, (0.0, 0.15, 0.25)),
        (0.34, 16, (0.0, 0.25, 0.4)),
        (0.28, 16, (0.25, 0.4)),
        (0.28, 14, (0.0, 0.25, 0.4)),
        (0.28, 12, (0.0, 0.4, 0.6, 0.8)),
        (0.25, 12, (0.0, 0.6, 0.8)),
        (0.22, 14, (0.4, 0.6)),
        (0.22, 12, (0.0, 0.25, 0.4)),
        (0.22, 10, (0.0, 0.6, 0.8)),
        (0.2, 10, (0.0, 0.6, 0.8)),
        (0.18, 8, (0.6, 0.8)),
    )
    for guard in guards
] + [
    OptimalSchedule(compute, guard=guard, fewest=fewest, dense=1)
    for compute, guard, fewest in (
        *((0.28, 0.4, 14), (0.25, 0.4, 12), (0.25, 0.6, 12), (0.25, 0.8, 12)),
        *((0.22, 0.4, 12), (0.22, 0.6, 12), (0.22, 0.8, 10)),
    )
]
ALL = (*JUDGES, *HOME)  # a preset that is faster elsewhere must keep its promise where the former ones were tuned
OFTEN = 0.95  # how many of the clips keep a promise
LEAST = 0.9  # how many of one judge's
HIGHEST = 99.0  # dB that a clip counts in a mean


@dataclass(frozen=True)
class Clip:
    """One run of a setting, and its PSNR above as many plain steps."""

    run: Run
    gain: float

    @property
    def share(self) -> float:
        return self.run.computed / self.run.case.steps


Clips = dict[str, list[Clip]]  # of each judge


def label(cache: OptimalSchedule) -> str:
    dense = f", dense {cache.dense}" * (cache.dense != OptimalSchedule().dense)
    return f"compute {cache.compute:g}, guard {cache.guard:g}, fewest {cache.fewest}{dense}"


def hard_cases(names: Sequence[str]) -> list[Case]:
    """Both schedulers and lengths at the higher guidance scale."""
    return [case for case in cases(names) if case.guidance == named(case.judge).guidance_scales[1]]


def found_clips(runs: Sequence[Run]) -> dict[str, Clips]:
    """By setting and judge, the clips that have a run of as many plain steps beside them."""
    plain = {(run.case, run.setting, run.prompt): run.psnr for run in runs}
    found: dict[str, Clips] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        beside = plain.get((run.case, fewer(run.computed), run.prompt))
        if beside is not None and run.setting != fewer(run.computed):
            found[run.setting][run.case.judge].append(Clip(run, run.psnr - beside))
    return found


def mean_share(clips: Clips) -> float:
    return float(np.mean([clip.share for of_judge in clips.values() for clip in of_judge]))


def keeps(preset: str) -> Callable[[Clips], bool]:
    """Whether these clips are what the preset stands for."""
    promise = PRESETS[preset].decibels

    def promised(clips: Clips) -> bool:
        shares = [np.mean([PRESETS[preset].kept(clip.run.psnr) for clip in of_judge]) for of_judge in clips.values()]
        return bool(np.mean(shares) >= OFTEN and min(shares) >= LEAST)

    def above_fewer_steps(clips: Clips) -> bool:
        return min(float(np.mean([clip.gain for clip in of_judge])) for of_judge in clips.values()) >= 0.0

    return above_fewer_steps if promise is None else promised


def chosen(found: dict[str, Clips], preset: str, without: str = "") -> str | None:
    """The setting that the judges choose, all or all but one, of those that have run on all their clips; None where
    nothing keeps the promise.
    """
    others = {
        setting: {judge: of_judge for judge, of_judge in clips.items() if judge != without}
        for setting, clips in found.items()
        if not setting.startswith("preset")
    }
    counts = {setting: sum(map(len, clips.values())) for setting, clips in others.items()}
    most = max(counts.values(), default=0)
    good = [setting for setting, clips in others.items() if clips and counts[setting] == most and keeps(preset)(clips)]
    return min(good, key=lambda setting: mean_share(others[setting]), default=None)


def summary(preset: str, clips: Sequence[Clip]) -> str:
    """Cells of a table: share that is computed, clips that keep the promise, the worst, and the gain."""
    kept = [PRESETS[preset].kept(clip.run.psnr) for clip in clips]
    share = f"{np.mean([clip.share for clip in clips]):.2f}"
    promise = "" if None in kept else f"{100 * np.mean([bool(one) for one in kept]):.0f} %"
    worst, gain = min(clip.run.psnr for clip in clips), np.mean([clip.gain for clip in clips])
    return f"{share} | {promise} | {worst:.1f} | {gain:+.1f}"


def left_out(found: dict[str, Clips]) -> Iterator[str]:
    """A line for each preset and judge left out, and one for the choice of all."""
    yield "| preset | left out | the others choose | computes there | keeps its promise | worst, dB | over fewer, dB |"
    yield "| --- " * 7 + "|"
    judges = sorted({judge for clips in found.values() for judge in clips})
    for preset in PRESETS:
        for judge in [*judges, ""]:
            setting = chosen(found, preset, judge)
            shown = [judge] if judge else judges
            clips = [clip for name in shown for clip in found[setting].get(name, [])] if setting else []
            cells = summary(preset, clips) if clips else "| | |"
            yield f"| `{preset}` | {judge or 'none'} | {setting or 'nothing'} | {cells} |"


def verified(found: dict[str, Clips]) -> Iterator[str]:
    """A line for each preset and length, on prompts that chose nothing."""
    yield "| preset | steps | computes | keeps its promise | worst, dB | over fewer, dB |"
    yield "| --- " * 6 + "|"
    for preset in PRESETS:
        clips = [clip for of_judge in found.get(f"preset {preset}", {}).values() for clip in of_judge]
        for steps in sorted({clip.run.case.steps for clip in clips}, reverse=True):
            yield f"| `{preset}` | {steps} | {summary(preset, [c for c in clips if c.run.case.steps == steps])} |"


def by_model(found: dict[str, Clips]) -> Iterator[str]:
    """Mean PSNR of each preset on each model: more compute should not be worse."""
    yield f"| model | {' | '.join(PRESETS)} |"
    yield "| --- " * (1 + len(PRESETS)) + "|"
    for name in ALL:
        of_model = [found.get(f"preset {preset}", {}).get(name, []) for preset in PRESETS]
        if all(of_model):
            means = [np.mean([min(clip.run.psnr, HIGHEST) for clip in clips]) for clips in of_model]
            yield f"| {name} | {' | '.join(f'{mean:.1f}' for mean in means)} |"


def measure(names: Sequence[str], out: Path, prompts: range, verify: bool) -> None:
    """Runs what is not in the folder yet."""
    path = out / f"{'verify-' * verify}{'-'.join(names)}.jsonl"
    for case in hard_cases(names):
        bench = Bench(case, path)
        for prompt in prompts:
            bench.fewer(case.steps, prompt)
        for name, preset in PRESETS.items() if verify else ():
            bench.ours(f"preset {name}", preset.recipe, prompts)
        for cache in () if verify else GRID:
            bench.ours(label(cache), Recipe(cache=cache), prompts)
        print(f"{case}: done", flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Presets, chosen by judges, and what they do on one left out.")
    add_judges(parser, ALL)
    parser.add_argument("--prompts", type=int, default=3)
    parser.add_argument("--verify", action="store_true", help="the presets as they are, on the prompts after these")
    parser.add_argument("--table", action="store_true", help="only print what the runs so far say")
    parser.add_argument("--out", type=Path, default=Path("out/presets"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    first = options.prompts if options.verify else 0
    if not options.table:
        measure(options.names, options.out, range(first, first + options.prompts), options.verify)
    found = found_clips(read(options.out))
    print("\n".join([*verified(found), "", *by_model(found)] if options.verify else left_out(found)))


if __name__ == "__main__":
    main()
