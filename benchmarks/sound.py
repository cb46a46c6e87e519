"""SmoothCache's claim on sound, 8 to 71 % faster at equal quality, tried: `python -m benchmarks.sound`.

The judge "sounds" (a stock StableAudioPipeline, which SmoothCache was published on too, with 100 steps there as here)
without a cache, with SmoothCache at several thresholds, with schedules of whole steps, and with fewer steps. Both
caches are calibrated on prompts that the judge was trained on, and judged on the five that it never heard.

Time is processor time: the ratio to the unaccelerated runs beside it. "pitch" is the share of sounds whose loudest
octave is the one that the prompt names.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import accel
from accel.measure.results import Comparison
from accel.measure.rows import ResultRow
from benchmarks.judges.data.sounds import PITCHES, RATE
from benchmarks.judges.roster import SOUNDS

STEPS = 100
ALPHAS = (0.05, 0.1, 0.15, 0.2, 0.3)
SHARES = (0.75, 0.6, 0.45, 0.34, 0.25)
FEWER = (75, 60, 45, 34, 25)
HEAD = "| | times as fast | SNR dB: mean, worst | SI-SDR dB | STFT dB | pitch |"


@dataclass(frozen=True)
class Pitch:
    """What `accel.compare` wants of a verifier."""

    correct: bool
    matches: dict[str, bool] = field(default_factory=dict)


def heard(samples: NDArray[Any], prompt: str) -> Pitch:
    """Whether the loudest frequency is nearest to the pitch that the prompt names. A fast glide crosses an octave and a
    half, so that of some that were drawn for their prompt it is not."""
    power = np.abs(np.fft.rfft(samples[:, 0])) ** 2
    hertz = np.fft.rfftfreq(len(samples), 1 / RATE)
    loudest = hertz[int(np.argmax(power))]
    named = PITCHES[prompt.split()[1]]
    return Pitch(min(PITCHES.values(), key=lambda pitch: abs(np.log2(loudest / pitch))) == named)


def recipes(pipe: Any, guidance: float, prompts: Sequence[str]) -> list[tuple[str, accel.Recipe]]:
    """Both kinds of cache, made to fit this model from one calibration."""
    call: dict[str, Any] = {"num_inference_steps": STEPS, "guidance_scale": guidance}
    calibration = accel.calibrate(pipe, prompts, layer_lags=3, **call)
    smooth = [(f"SmoothCache {alpha:g}", accel.Recipe(cache=calibration.smoothcache(alpha))) for alpha in ALPHAS]
    whole = [(f"schedule {share:g}", accel.Recipe(cache=calibration.schedule(share))) for share in SHARES]
    return [*smooth, *whole]


def measured(scheduler: str, guidance: float, seeds: int) -> Comparison:
    """Everything on the prompts that were held out."""
    pipe = SOUNDS.load(scheduler)
    contestants: list[Any] = recipes(pipe, guidance, SOUNDS.language.trained()[::8])
    return accel.compare(
        pipe, contestants, SOUNDS.prompts, range(seeds), steps=STEPS, call_arguments={"guidance_scale": guidance},
        verify=heard, fewer_steps=FEWER, progress=False,
    )  # fmt: skip


def line(row: ResultRow) -> str:
    """Of the table."""
    worst, values = row.snr_worst, (row.snr, row.si_sdr, row.stft_distance)
    snr, si_sdr, stft = ("-" if value is None else f"{value:.1f}" for value in values)
    mean = snr if worst is None else f"{snr}, {worst:.1f}"
    return f"| {row.label} | {row.cpu_speedup or row.speedup:.2f} | {mean} | {si_sdr} | {stft} | {row.adherence:.0%} |"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Caches on a pipeline that makes sound.")
    parser.add_argument("--schedulers", nargs="+", default=list(SOUNDS.schedulers), choices=list(SOUNDS.schedulers))
    parser.add_argument("--guidance", type=float, default=SOUNDS.guidance_scales[1])
    parser.add_argument("--seeds", type=int, default=1, help="of each of the five prompts (1)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for scheduler in options.schedulers:
        print(f"\n{scheduler}, {STEPS} steps, guidance {options.guidance:g}\n\n{HEAD}\n{'| --- ' * 6}|")
        for row in measured(scheduler, options.guidance, options.seeds).rows:
            print(line(row), flush=True)


if __name__ == "__main__":
    main()
