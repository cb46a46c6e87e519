"""The whole frontier on one pipeline: every cache, fewer steps, and the rivals, measured alike.

`python -m benchmarks.frontier` (`make frontier`) measures it on the pocket model.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accel import pocket
from accel.anatomy import Anatomy, inspect
from accel.caching.cache_method import Cache
from accel.caching.calibration.calibrate import calibrate
from accel.caching.calibration.calibration import Calibration
from accel.caching.extrapolate import Extrapolate
from accel.caching.methods.fixed_interval import FixedInterval
from accel.caching.predictor import LastOutput, LastResidual
from accel.cli import run
from accel.commands.options import add_measurement, call_arguments, load
from accel.lever import InactiveLever
from accel.measure.comparison import compare
from accel.measure.measurements import Verifier
from accel.measure.pareto import FEWER_STEPS
from accel.measure.pipeline_runs import without_progress_bars
from accel.measure.results import Comparison
from accel.measure.rows import ResultRow
from accel.method import Method
from accel.terminal import show, waiting
from benchmarks.command import command_of
from benchmarks.rivals import rivals

# Every method is set to these shares of computed steps, the denoiser's speed-up being the inverse.
SPEEDS = (1.5, 2.0, 3.0, 4.0, 5.0)
# Interpolation of a curve of PSNR over speed-up is judged at these.
JUDGED = (2.0, 3.0, 4.0)


@dataclass(frozen=True)
class Curve:
    """One technique at several settings: points (speed-up, PSNR), by increasing speed-up."""

    name: str
    points: tuple[tuple[float, float], ...]

    def at(self, speedup: float) -> float | None:
        """PSNR at this speed-up: between its neighbours by straight line, beyond the fastest point not at all.

        A setting that is faster than asked for and better than the line counts with its own PSNR.
        """
        faster = [psnr for speed, psnr in self.points if speed >= speedup]
        if not faster:
            return None
        slower = [point for point in self.points if point[0] < speedup]
        best = max(faster)
        if not slower:
            return best
        (x0, y0), (x1, y1) = slower[-1], next(point for point in self.points if point[0] >= speedup)
        return max(best, y0 + (y1 - y0) * (speedup - x0) / (x1 - x0))


def candidates(calibration: Calibration, anatomy: Anatomy) -> list[tuple[str, Method]]:
    """Every cache at every speed that it can be set to, or else at its defaults, and what other predictors do to a
    fixed interval. Labels are "method: setting".
    """
    found: dict[str, Method] = {}
    for kind in Method.registry["cache"].values():
        for method in kind.for_comparison():
            found |= _at_speeds(method, calibration, anatomy)
    for speed in SPEEDS:
        interval = FixedInterval(round(speed), warmup=5)
        found[f"FixedInterval, not corrected: {speed:g}x"] = replace(interval, predictor=Extrapolate(corrector=0))
        found[f"FixedInterval, last residual: {speed:g}x"] = replace(interval, predictor=LastResidual())
        found[f"FixedInterval, last output: {speed:g}x"] = replace(interval, predictor=LastOutput())
    first: dict[Method, str] = {}
    for label, method in found.items():
        first.setdefault(method, label)  # an interval of 2 is the nearest to two of the speeds
    return [(label, method) for method, label in first.items()]


def _at_speeds(method: Method, calibration: Calibration, anatomy: Anatomy) -> dict[str, Method]:
    name = type(method).__name__
    found: dict[str, Method] = {}
    for speed in SPEEDS:
        if not isinstance(method, Cache):
            break
        with suppress(ValueError):  # its guards compute more than that, or it has no dial
            found[f"{name}: {speed:g}x"] = method.at_share(1.0 / speed, calibration, calibration.steps)
    if not found and not isinstance(method.build(anatomy), InactiveLever):
        found[f"{name}: default"] = method
    return found


def measure(
    pipe: Any,
    prompts: Sequence[str],
    calibration: Sequence[str],
    *,
    steps: int = 50,
    repeats: int = 1,
    call_arguments: Mapping[str, Any] | None = None,
    verify: Verifier | None = None,
) -> Comparison:
    """Calibrates on some prompts, then compares everything on the others, which the calibration has not seen.

    All of it in one process and interleaved, see `accel.compare`.
    """
    arguments = dict(call_arguments or {})
    with without_progress_bars(pipe):
        measured = calibrate(pipe, calibration, num_inference_steps=steps, **arguments)
    entries: list[tuple[str, Any]] = [*candidates(measured, inspect(pipe)), *rivals(pipe)]
    fewer = sorted({round(steps / speed) for speed in (1.25, 1.5, 2, 2.5, 3, 4, 5, 6)})
    return compare(
        pipe, entries, prompts, steps=steps, repeats=repeats, call_arguments=arguments, verify=verify, fewer_steps=fewer
    )


def curves(comparison: Comparison) -> dict[str, Curve]:
    """The rows joined to curves: what stands before ":" in the label names the curve."""
    grouped: dict[str, list[ResultRow]] = {}
    for row in comparison.rows:
        if row.psnr is not None:
            grouped.setdefault(series_of(row), []).append(row)
    return {
        name: Curve(name, tuple(sorted((row.speedup, row.psnr) for row in rows if row.psnr is not None)))
        for name, rows in grouped.items()
    }


def series_of(row: ResultRow) -> str:
    """What joins rows to a curve: the label up to the colon."""
    return FEWER_STEPS if row.kind == "fewer_steps" else row.label.split(":")[0]


def verdict(found: dict[str, Curve], ours: set[str]) -> list[dict[str, Any]]:
    """For each of the speeds: our best curve, the best rival's, fewer steps, and the distances in dB."""
    rows = []
    for speed in JUDGED:
        reached = {name: psnr for name, curve in found.items() if (psnr := curve.at(speed)) is not None}
        mine = max((name for name in reached if name in ours), key=reached.__getitem__, default=None)
        others = [name for name in reached if name not in ours and name != FEWER_STEPS]
        rival = max(others, key=reached.__getitem__, default=None)
        rows.append(
            {
                "speedup": speed,
                "ours": mine,
                "psnr": reached.get(mine) if mine else None,
                "rival": rival,
                "rival_psnr": reached.get(rival) if rival else None,
                "fewer_steps_psnr": reached.get(FEWER_STEPS),
            }
        )
    return rows


def save(comparison: Comparison, out: Path) -> list[str]:
    """Writes frontier.json, frontier.svg and frontier.txt; returns the lines of the verdict."""
    out.mkdir(parents=True, exist_ok=True)
    found = curves(comparison)
    ours = {row.label.split(":")[0] for row in comparison.rows if row.kind == "recipe"}
    rows = verdict(found, ours)
    lines = [_sentence(row) for row in rows]
    data = comparison.to_dict() | {"verdict": rows, "curves": {name: curve.points for name, curve in found.items()}}
    (out / "frontier.json").write_text(json.dumps(data, indent=1), encoding="utf-8")
    (out / "frontier.txt").write_text("\n".join([str(comparison), "", *lines]) + "\n", encoding="utf-8")
    draw(found, ours, comparison, out / "frontier.svg")
    return lines


def draw(found: dict[str, Curve], ours: set[str], comparison: Comparison, path: Path) -> None:
    """The picture: PSNR over wall-clock speed-up. Ours in colour, rivals dashed, fewer steps in black."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5.5))
    shown = [name for name in found if len(found[name].points) > 1]
    for index, name in enumerate(shown):
        x, y = zip(*found[name].points, strict=True)
        colour = pyplot.get_cmap("tab20")(index % 20)
        style: dict[str, Any] = {"linestyle": "-", "marker": "o", "linewidth": 1.8, "color": colour}
        if name == FEWER_STEPS:
            style |= {"color": "black", "linewidth": 2.5}
        elif name not in ours:
            style |= {"linestyle": "--", "marker": "s", "color": pyplot.get_cmap("Greys")(0.35 + 0.08 * (index % 7))}
        axes.plot(x, y, label=name, markersize=4, **style)
    settings = comparison.settings
    axes.set_xlabel("wall-clock speed-up, end to end")
    axes.set_ylabel("PSNR against the unaccelerated output (dB)")
    size = f"{settings['width']}x{settings['height']}x{settings['frames']}"
    axes.set_title(f"{settings['pipeline']}, {settings['steps']} steps, guidance {settings['guidance']}, {size}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, ncols=2) if shown else None
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def _sentence(row: dict[str, Any]) -> str:
    if row["psnr"] is None:
        return f"At {row['speedup']:g}x: none of ours is that fast."
    text = f"At {row['speedup']:g}x: {row['ours']} {row['psnr']:.1f} dB"
    if row["rival"]:
        text += f"; best rival {row['rival']} {row['rival_psnr']:.1f} dB ({row['psnr'] - row['rival_psnr']:+.1f})"
    if row["fewer_steps_psnr"] is not None:
        difference = row["psnr"] - row["fewer_steps_psnr"]
        text += f"; fewer steps {row['fewer_steps_psnr']:.1f} dB ({difference:+.1f})"
    return text + "."


def frontier(options: argparse.Namespace) -> None:
    """Measure every cache, fewer steps and other libraries on the pocket model."""
    prompts = pocket.prompts(options.clips + 6, seed=11)
    result = measure(
        load("pocket:video", options),
        prompts[6:],
        prompts[:6],
        steps=options.steps,
        repeats=options.repeats,
        call_arguments=call_arguments(options),
        verify=pocket.verify,
    )
    with waiting(f"writing {options.out}"):
        lines = save(result, options.out)
    show(result, *lines, f"\nTable, data and picture: {options.out}")


def main(argv: Sequence[str] | None = None) -> int:
    command = command_of("benchmarks.frontier", frontier)
    command.add_argument("--clips", type=int, default=4, help="how many prompts (4)")
    add_measurement(command, out="out/frontier", steps=50)
    return run(command.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
