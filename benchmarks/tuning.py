"""The repository's benchmark: recipes that the tuner finds here and now, presets, single levers, fewer steps and other
libraries, on prompts that none of them was tuned on, in one process: `python -m benchmarks.tuning` (`make bench`)."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel.caching import Calibration, OptimalSchedule
from accel.cli import run
from accel.commands.options import (
    add_call,
    add_machine,
    add_model,
    call_arguments,
    load,
    recorded_prompts,
    verifier,
)
from accel.files import write_whole
from accel.measure.comparison import compare
from accel.measure.measurements import Verifier
from accel.measure.metrics import psnr
from accel.measure.page import render_page
from accel.measure.pareto import FEWER_STEPS, ParetoPoint, pareto_svg
from accel.measure.results import Comparison
from accel.measure.tables import as_text, comparison_table
from accel.presets import PRESETS
from accel.recipe import Recipe
from accel.samplers import AdaptiveGuidance, GuidanceDelta, PseudoCorrector
from accel.terminal import show, waiting
from accel.tuning import GoalNotMet, tune
from accel.tuning.goal import SLACK, Bound
from accel.tuning.simulate import CALIBRATION
from accel.tuning.space import caches
from benchmarks.command import command_of
from benchmarks.frontier import Curve, curves, series_of
from benchmarks.rivals import rivals

# The sweep of single levers: shares of computed steps.
SWEEP = (0.5, 0.34, 0.28, 0.24, 0.22, 0.2, 0.18)
# Two levers by hand: shares of the steps that the sampler takes, and shares of those that a planned cache computes.
COMPOSED = ((0.5, 0.6), (0.36, 0.72), (0.36, 0.62), (0.36, 0.56), (0.3, 0.67))


@dataclass(frozen=True)
class Standing:
    """The fastest setting of one series that keeps a quality on nearly all prompts, by a straight line between its two
    nearest settings: `promised` judges as the tuner does, `mean` by the mean PSNR alone."""

    series: str
    promised: float | None
    mean: float | None


@dataclass(frozen=True)
class Bench:
    """What was measured, and the recipes that were tuned for it, by their label."""

    comparison: Comparison
    tuned: Mapping[str, Recipe]
    not_met: Mapping[str, str]

    def table(self) -> str:
        """Every row, and what must be known before believing the times."""
        return "\n".join([as_text(comparison_table(self.comparison)), *self.comparison.cautions()])

    def standings(self, limit: float) -> list[Standing]:
        """Every series, the fastest first."""
        means, promised = curves(self.comparison), self._promised()
        names = [name for name in means if name != "unaccelerated"]
        found = [
            Standing(name, fastest(promised[name], limit - SLACK["psnr"]), fastest(means[name], limit))
            for name in names
        ]
        return sorted(found, key=lambda standing: -(standing.promised or 0.0))

    def verdict(self, limit: float) -> str:
        """One sentence: our fastest at this quality against the best rival's and against fewer steps."""
        standings = {standing.series: standing for standing in self.standings(limit)}
        ours = {row.label.split(":")[0] for row in self.comparison.rows if row.kind == "recipe"}
        lines = []
        for name in ("promised", "mean"):
            speeds = {series: getattr(standing, name) or 0.0 for series, standing in standings.items()}
            mine = max((series for series in speeds if series in ours), key=speeds.__getitem__, default="")
            others = [series for series in speeds if series not in ours and series != FEWER_STEPS]
            rival = max(others, key=speeds.__getitem__, default="")
            what = f"{limit:g} dB on 95 % of prompts" if name == "promised" else f"{limit:g} dB on average"
            text = f"{what}: {mine} {speeds.get(mine, 0.0):.2f}x"
            if speeds.get(rival):
                text += f", best rival {rival} {speeds[rival]:.2f}x ({speeds[mine] / speeds[rival]:.2f} times as fast)"
            lines.append(text + f", fewer steps {speeds.get(FEWER_STEPS, 0.0):.2f}x.")
        return "\n".join(lines)

    def points(self) -> list[ParetoPoint]:
        """The picture's points."""
        return [
            ParetoPoint(row.label, series_of(row), row.speedup, row.psnr, f"worst {row.psnr_worst:.1f} dB")
            for row in self.comparison.rows
            if row.psnr is not None
        ]

    def to_dict(self) -> dict[str, Any]:
        tuned = {
            label: {"recipe": recipe.to_dict(), "evidence": dict(recipe.evidence)}
            for label, recipe in self.tuned.items()
        }
        return self.comparison.to_dict() | {"tuned": tuned, "not_met": dict(self.not_met)}

    def _promised(self) -> dict[str, Curve]:
        """By series, speed-up and the PSNR that its clips allow to promise."""
        grouped: dict[str, list[tuple[float, float]]] = {}
        for row in self.comparison.rows:
            values = [
                sample.quality.psnr
                for sample in self.comparison.samples
                if sample.label == row.label and sample.quality is not None and sample.quality.psnr is not None
            ]
            if values:
                # The margin over a bound of 0 is the bound that could be promised.
                grouped.setdefault(series_of(row), []).append(
                    (row.speedup, Bound("psnr", psnr, least=0.0).margin(values, 0.95))
                )
        return {name: Curve(name, tuple(sorted(points))) for name, points in grouped.items()}


def fastest(curve: Curve, limit: float) -> float | None:
    """The largest speed-up at which the curve has this quality, by straight lines between its points; None where it has
    it nowhere."""
    found = [speed for speed, quality in curve.points if quality >= limit]
    for (x0, y0), (x1, y1) in zip(curve.points, curve.points[1:], strict=False):
        if y0 >= limit > y1:
            found.append(x0 + (x1 - x0) * (y0 - limit) / (y0 - y1))
    return max(found, default=None)


def measure(
    pipe: Any,
    prompts: Sequence[str],
    tuning: Sequence[str],
    out: Path,
    *,
    qualities: Sequence[float] = (24.0, 30.0, 40.0),
    speeds: Sequence[float] = (2.0, 3.0),
    minutes: float = 5.0,
    steps: int | None = None,
    call_arguments: Mapping[str, Any] | None = None,
    verify: Verifier | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Bench:
    """Tunes for every goal on some prompts, then compares with everything else on others.

    The recipes and their evidence go to a folder for each goal below `out`. minutes: for each tuning.
    """
    arguments = dict(call_arguments or {})
    tuned: dict[str, Recipe] = {}
    not_met: dict[str, str] = {}
    goals: list[tuple[str, float | None, float | None]] = [
        *((f"{quality:g} dB", quality, None) for quality in qualities),
        *((f"{speed:g}x", None, speed) for speed in speeds),
    ]
    for label, quality, speed in goals:
        try:
            tuned[label] = tune(
                pipe, tuning, min_psnr=quality, target_speedup=speed, steps=steps, minutes=minutes,
                call_arguments=arguments, verify=verify, out=out / f"tuned-{label.replace(' ', '-')}",
                journal=out / "search", tell=tell,
            )  # fmt: skip
        except GoalNotMet as error:
            not_met[label] = str(error)
    tell("comparing")
    entries: list[tuple[str, Any]] = [(f"tuned: {label}", recipe) for label, recipe in tuned.items()]
    entries += [(f"preset: {name}", preset.recipe) for name, preset in PRESETS.items()]
    entries += single_levers(Calibration.load(out / "search" / CALIBRATION))
    entries += composed()
    entries += rivals(pipe)
    comparison = compare(
        pipe, entries, prompts, steps=steps, call_arguments=arguments, verify=verify,
        fewer_steps=_fewer(steps or 50),
    )  # fmt: skip
    return Bench(comparison, tuned, not_met)


def single_levers(calibration: Calibration) -> list[tuple[str, Recipe]]:
    """Each lever by itself over its range. Labels are "lever: setting"."""
    found: list[tuple[str, Recipe]] = []
    for share in SWEEP:
        found.append((f"planned cache: {share:g}", Recipe(cache=OptimalSchedule(share))))
        with suppress(ValueError):  # nothing was recorded to plan with
            found.append((f"calibrated cache: {share:g}", Recipe(cache=calibration.schedule(share))))
        for name, method in caches().items():
            if not method.data_free:
                with suppress(ValueError):  # its guards compute more than that
                    found.append((f"{name}: {share:g}", Recipe(cache=calibration.threshold(method, share))))
    guidances = (AdaptiveGuidance(), GuidanceDelta(1.3), GuidanceDelta())
    found += [(f"guidance: {method}", Recipe(guidance=method)) for method in guidances]
    return found + [(f"sampler: {share:g}", Recipe(sampler=PseudoCorrector(steps=share))) for share in (0.7, 0.5, 0.35)]


def composed() -> list[tuple[str, Recipe]]:
    """A sampler with a cache, neither of them tuned."""
    return [
        (
            f"sampler + cache: {share:g}, {part:g}",
            Recipe(cache=OptimalSchedule(part), sampler=PseudoCorrector(steps=share)),
        )
        for share, part in COMPOSED
    ]


def save(bench: Bench, out: Path, limits: Sequence[float]) -> list[str]:
    """Writes bench.json, bench.svg, bench.txt and page.html (with the videos of our recipes and the first others);
    returns the verdict's lines."""
    out.mkdir(parents=True, exist_ok=True)
    lines = [line for limit in limits for line in bench.verdict(limit).splitlines()]
    missed = [f"Tuning for {label}: {why}" for label, why in bench.not_met.items()]
    settings = bench.comparison.settings
    size = f"{settings['width']}x{settings['height']}x{settings['frames']}"
    title = f"{settings['pipeline']}, {settings['steps']} steps, guidance {settings['guidance']}, {size}"
    theirs = {series_of(row) for row in bench.comparison.rows if row.kind == "other"}
    write_whole(out / "bench.svg", pareto_svg(bench.points(), title=title, rivals=theirs))
    write_whole(out / "bench.txt", "\n".join([bench.table(), "", *lines, *missed]) + "\n")
    write_whole(out / "page.html", render_page(bench.comparison))
    write_whole(out / "bench.json", json.dumps(bench.to_dict(), indent=1))
    return [*lines, *missed]


def _fewer(steps: int) -> list[int]:
    return sorted({max(round(steps / speed), 1) for speed in (1.25, 1.5, 2, 2.5, 3, 4, 5)})


def bench(options: argparse.Namespace) -> None:
    """Tune, and measure what was found against all else."""
    prompts = recorded_prompts(options.prompts, options.model)
    if len(prompts) < options.clips + 6:
        raise ValueError(
            f"{options.clips} prompts to judge on and at least 6 to tune on are needed, not {len(prompts)}."
        )
    with waiting("tuning") as status:
        result = measure(
            load(options.model, options), prompts[: options.clips], prompts[options.clips :], options.out,
            qualities=options.qualities, speeds=options.speeds, minutes=options.minutes, steps=options.steps,
            call_arguments=call_arguments(options), verify=verifier(options.model), tell=status.update,
        )  # fmt: skip
    with waiting(f"writing {options.out}"):
        lines = save(result, options.out, options.qualities)
    show(result.table(), "", *lines, "")
    show(f"Picture: {options.out / 'bench.svg'}\nPage:    {options.out / 'page.html'}")


def main(argv: Sequence[str] | None = None) -> int:
    command = command_of("benchmarks.tuning", bench)
    add_model(command, default="pocket:video")
    command.add_argument(
        "--prompts", default="38", help="a file with one prompt per line, or how many of the pocket model's own (38)"
    )
    command.add_argument("--clips", type=int, default=8, help="how many of them to judge on; the others tune (8)")
    command.add_argument(
        "--qualities", type=float, nargs="*", default=[24, 30, 40], help="PSNRs to tune for (24 30 40)"
    )
    command.add_argument("--speeds", type=float, nargs="*", default=[2, 3], help="speed-ups to tune for (2 3)")
    command.add_argument("--minutes", type=float, default=6.0, help="for each tuning (6)")
    command.add_argument("--out", type=Path, default=Path("out/bench"), help="folder for the results (out/bench)")
    add_call(command, steps=50)
    add_machine(command)
    return run(command.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
