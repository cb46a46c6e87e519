"""The numbers of a comparison in large type, and all of them in a table."""

from __future__ import annotations

import math
import time
from html import escape

from accel.app.pair import Cost, Pair, leading
from accel.measure.pareto import IDENTICAL


def decibels(value: float | None) -> str:
    """A PSNR for people."""
    if value is None or math.isnan(value):
        return "–"
    return "identical" if value >= IDENTICAL else f"{value:.1f} dB"


def fidelity_words(psnr: float | None) -> str:
    """What a PSNR against the unaccelerated clip is worth to the eye."""
    worth = ((40.0, "nothing to see"), (30.0, "seen side by side only"), (24.0, "details differ"))
    words = next((words for least, words in worth if psnr is not None and psnr >= least), "another take")
    return "fidelity (PSNR)" + (f": {words}" if psnr is not None else "")


def seconds(value: float | None) -> str:
    """A time for people: 0.42 s, 12.3 s, 3 min 20 s."""
    if value is None:
        return "–"
    if value < 90:
        return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"
    return f"{int(value // 60)} min {int(value % 60)} s"


def moment(when: float) -> str:
    """A time of the day."""
    return time.strftime("%H:%M", time.localtime(when))


def headline_html(pair: Pair) -> str:
    """Speed-up, fidelity and seconds, large; how the speed-up was found, and what the pipeline did otherwise."""
    metrics, base, fast = pair.metrics, pair.baseline, pair.accelerated
    speedup = metrics.get("speedup")
    (name, quality), ssim, stft = leading(metrics), metrics.get("ssim"), metrics.get("stft_distance")
    second = (decibels(stft), "STFT distance") if name == "SNR" else ("–" if ssim is None else f"{ssim:.3f}", "SSIM")
    shown = [
        (*_speed(speedup, fast.idle), "speedup"),
        (decibels(quality), fidelity_words(quality) if name == "PSNR" else f"fidelity ({name})", "psnr"),
        (*second, "ssim"),
        (
            f"{seconds(base.seconds['total'])} → {seconds(fast.seconds['total'])}",
            "end to end" + (f", the first kept from {moment(pair.baseline_when)}" if pair.baseline_reused else ""),
            "seconds",
        ),
        (f"{fast.computed} of {base.computed}", "denoiser calls", "calls"),
    ]
    cards = "".join(
        f'<div class="figure" data-figure="{name}"><b>{escape(value)}</b><span>{escape(words)}</span></div>'
        for value, words, name in shown
    )
    reason = f"Not accelerated: {fast.idle}." if fast.idle else ""
    told = [reason, *pair.notes, pair.timing_note]
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in told if note)
    return f'<div class="figures" data-when="{pair.when:.3f}">{cards}</div>{notes}'


def _speed(speedup: float | None, idle: str) -> tuple[str, str]:
    """A ratio beside work that was left out, and no ratio where none was: it would be the noise of the machine."""
    if idle:
        return "1×", "not accelerated"
    if speedup is None:
        return "–", "faster"
    return f"{speedup:.2f}×", "faster" if speedup >= 1 else "the speed: slower"


def metrics_html(pair: Pair) -> str:
    """Everything that was measured, a line each."""
    metrics = pair.metrics
    flicker, peak = metrics.get("flicker_difference"), pair.accelerated.peak_bytes
    lines = {
        "speed-up, end to end": _times(metrics.get("speedup")),
        "speed-up, denoising alone": _times(metrics.get("denoise_speedup")),
    }
    if pair.psnr_per_frame:
        lines |= {
            "PSNR": decibels(metrics.get("psnr")),
            "worst frame": f"{pair.worst_frame + 1} ({decibels(pair.psnr_per_frame[pair.worst_frame])})",
            "SSIM": _number(metrics.get("ssim"), 4),
            "flicker against the baseline's": _number(flicker, 4, signed=True),
        }
    if metrics.get("snr") is not None:
        lines |= {
            "SNR of the sound": decibels(metrics["snr"]),
            "SI-SDR of the sound": decibels(metrics.get("si_sdr")),
            "log-STFT distance of the sound": decibels(metrics.get("stft_distance")),
        }
    lines["peak memory"] = f"{peak / 2**20:.0f} MiB" if peak else "–"
    rows = "".join(f"<tr><th>{name}</th><td>{escape(value)}</td></tr>" for name, value in lines.items())
    return f'<section><h3>Measured</h3><table class="metrics">{rows}</table></section>'


def cost_html(cost: Cost) -> str:
    """What a run will take, in one line."""
    if cost.computed_share is None and cost.seconds_accelerated is None:
        return '<p class="cost">Nothing like this has run here yet, so its time is unknown.</p>'
    parts = []
    if cost.seconds_accelerated is not None:
        told = "measured" if cost.source == "measured" else "about"
        parts.append(f"accelerated {told} <b>{seconds(cost.seconds_accelerated)}</b>")
    if cost.baseline_cached:
        since = f" from {moment(cost.baseline_when)}" if cost.baseline_when is not None else ""
        parts.append(f"unaccelerated <b>kept{since}</b>")
    elif cost.seconds_baseline is not None:
        parts.append(f"unaccelerated <b>{seconds(cost.seconds_baseline)}</b>")
    if cost.computed_share is not None:
        parts.append(f"<b>{100 * cost.computed_share:.0f} %</b> of the denoiser's work")
    if cost.peak_bytes:
        parts.append(f"<b>{cost.peak_bytes / 2**20:.0f} MiB</b> at the peak")
    return f'<p class="cost">{", ".join(parts)}</p>'


def _times(value: float | None) -> str:
    return f"{value:.2f}×" if value is not None else "–"


def _number(value: float | None, digits: int, signed: bool = False) -> str:
    if value is None:
        return "–"
    return f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
