"""The whole frontier on one pipeline: every cache and predictor, fewer steps, and the rivals, measured alike."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accel.caching import EasyCache, Extrapolate, FixedInterval, LastOutput, LastResidual, Recording, SeaCache, record
from accel.caching.method import CacheMethod
from accel.caching.predictor import Predictor
from accel.comparison import compare
from accel.contest import Verifier, quiet
from accel.results import Comparison, Row
from accel.rivals import rivals

PREDICTORS: dict[str, Predictor] = {
    "last output": LastOutput(),
    "last residual": LastResidual(),
    "order 1": Extrapolate(1),
    "order 2": Extrapolate(2),
}
# Interpolation of a curve of PSNR over speed-up is judged at these.
SPEEDS = (2.0, 3.0)


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


def candidates(recording: Recording, predictors: dict[str, Predictor] = PREDICTORS) -> list[tuple[str, CacheMethod]]:
    """Every method at settings from slow to fast, with every predictor. Labels are "method, predictor: setting"."""
    settings: list[tuple[str, str, CacheMethod]] = [
        *(("interval", f"{n}", FixedInterval(n)) for n in (2, 3, 4, 6)),
        *(("EasyCache", f"{t:g}", EasyCache(t)) for t in (0.03, 0.06, 0.12, 0.24)),
        *(("SeaCache", f"{t:g}", SeaCache(t, warmup=5, max_skips=5)) for t in (0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.8)),
        *(("TeaCache", f"{t:g}", recording.teacache(t)) for t in (0.1, 0.2, 0.4, 0.8)),
        *(("MagCache", f"{t:g}", recording.magcache(t, most=6)) for t in (0.02, 0.06, 0.12, 0.24)),
    ]
    return [
        (f"{method}, {name}: {setting}", replace(cache, predictor=predictor))
        for method, setting, cache in settings
        for name, predictor in predictors.items()
    ]


def measure(
    pipe: Any,
    prompts: Sequence[str],
    calibration: Sequence[str],
    *,
    steps: int = 50,
    repeats: int = 1,
    call_arguments: Mapping[str, Any] | None = None,
    verify: Verifier | None = None,
    predictors: Sequence[str] = tuple(PREDICTORS),
) -> Comparison:
    """Records the constants on the calibration prompts, then compares everything on the others.

    All of it in one process and interleaved, see `accel.compare`; `predictors` are names of `PREDICTORS`.
    """
    arguments = dict(call_arguments or {})
    with quiet(pipe):
        recording = record(pipe, calibration, num_inference_steps=steps, **arguments)
    entries = [*candidates(recording, {name: PREDICTORS[name] for name in predictors}), *rivals(pipe)]
    fewer = sorted({round(steps / speed) for speed in (1.25, 1.5, 2, 2.5, 3, 4, 5, 6)})
    return compare(
        pipe, entries, prompts, steps=steps, repeats=repeats, call_arguments=arguments, verify=verify, fewer_steps=fewer
    )


def curves(comparison: Comparison, time: str = "speedup") -> dict[str, Curve]:
    """The rows joined to curves: what stands before ":" in the label names the curve."""
    grouped: dict[str, list[Row]] = {}
    for row in comparison.rows:
        if row.psnr is not None:
            name = "fewer steps" if row.kind == "fewer_steps" else row.label.split(":")[0]
            grouped.setdefault(name, []).append(row)
    return {
        name: Curve(name, tuple(sorted((getattr(row, time), row.psnr) for row in rows if row.psnr is not None)))
        for name, rows in grouped.items()
    }


def verdict(found: dict[str, Curve], ours: set[str]) -> list[dict[str, Any]]:
    """For each of the speeds: our best curve, the best rival's, fewer steps, and the distances in dB."""
    rows = []
    for speed in SPEEDS:
        reached = {name: psnr for name, curve in found.items() if (psnr := curve.at(speed)) is not None}
        mine = max((name for name in reached if name in ours), key=reached.__getitem__, default=None)
        others = [name for name in reached if name not in ours and name != "fewer steps"]
        rival = max(others, key=reached.__getitem__, default=None)
        rows.append(
            {
                "speedup": speed,
                "ours": mine,
                "psnr": reached.get(mine) if mine else None,
                "rival": rival,
                "rival_psnr": reached.get(rival) if rival else None,
                "fewer_steps_psnr": reached.get("fewer steps"),
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
    shown = [name for name in found if name not in ours or name.endswith(("order 2", "last residual"))]
    for index, name in enumerate(shown):
        x, y = zip(*found[name].points, strict=True)
        style: dict[str, Any] = {"linestyle": "-", "marker": "o", "linewidth": 1.8}
        if name == "fewer steps":
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
    axes.legend(fontsize=7, ncols=2)
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
