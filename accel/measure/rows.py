"""One variant of a comparison in a row of numbers, and how it follows from the samples of its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from accel.measure.intervals import Interval, of_mean, of_ratio, of_share
from accel.measure.measurements import BASELINE, Kind, Measurements, Sample, by_phase
from accel.measure.steadiness import diversity


@dataclass(frozen=True)
class ResultRow:
    """One variant over all prompts, seeds and repeats.

    Times are medians in wall-clock seconds, ranges are (least, most). A speed-up is the ratio of the medians
    over the runs that were interleaved with this variant, its range that of the single pairs. Quality is a
    mean over prompts and seeds against the unaccelerated output, of frames and of sound as far as there are any;
    `psnr_worst` and `snr_worst` are the worst of them. Counts are denoiser calls per run.

    Intervals are of 95 % confidence, for other prompts and seeds. Without a reference: `seconds_per_correct` of a clip
    that matches its prompt (None where none does), `flicker`, `warping_error` and `diversity` as in
    `accel.measure.steadiness`; `teraflops` and `joules` of one run.

    idle: why no lever of this recipe acted; "" where one did, and where it has none. Its speed-ups are then the noise
    of the machine, which `times` leaves out.
    """

    label: str
    kind: Kind
    steps: int
    seconds: float
    seconds_range: tuple[float, float]
    before: float
    denoise: float
    after: float
    speedup: float
    speedup_range: tuple[float, float]
    denoise_speedup: float
    cpu_speedup: float | None
    psnr: float | None
    psnr_worst: float | None
    ssim: float | None
    flicker_difference: float | None
    frame_difference_psnr: float | None
    adherence: float | None
    attributes: dict[str, float]
    computed: float
    predicted: float
    dropped: float
    extra_bytes: int
    peak_bytes: int | None
    runs: int
    equal_time_to: tuple[str, ...] = ()
    snr: float | None = None
    snr_worst: float | None = None
    si_sdr: float | None = None
    stft_distance: float | None = None
    speedup_interval: Interval | None = None
    psnr_interval: Interval | None = None
    adherence_range: Interval | None = None
    seconds_per_correct: float | None = None
    flicker: float | None = None
    warping_error: float | None = None
    diversity: float | None = None
    lpips: float | None = None
    teraflops: float | None = None
    joules: float | None = None
    idle: str = ""

    def times(self, ratio: float | None) -> str:
        """A speed-up for people: "1.37x", "–" where nothing was left out, "" where there is none."""
        return "" if ratio is None else "–" if self.idle else f"{ratio:.2f}x"

    @property
    def phases(self) -> dict[str, float]:
        """Seconds by phase."""
        return by_phase(self.seconds, self.before, self.denoise, self.after)

    @property
    def decibels(self) -> float | None:
        """By what it is judged first: PSNR of frames, or SNR of sound where there are none."""
        return self.psnr if self.psnr is not None else self.snr


def summarise(label: str, kind: Kind, steps: int, ledger: Measurements, equal_time_to: Sequence[str] = ()) -> ResultRow:
    """The row of one variant from the samples of the ledger; it must have at least one sample."""
    own = [sample for sample in ledger.samples if sample.label == label]
    pairs = [(_partner(sample, ledger), sample) for sample in own]
    judged = [sample.quality for sample in own if sample.quality is not None]
    ratios = [base.seconds / sample.seconds for base, sample in pairs]
    psnrs = [quality.psnr for quality in judged if quality.psnr is not None]
    snrs = [quality.snr for quality in judged if quality.snr is not None]
    peaks = [sample.peak_bytes for sample in own if sample.peak_bytes is not None]
    return ResultRow(
        label=label,
        kind=kind,
        steps=steps,
        seconds=median(s.seconds for s in own),
        seconds_range=(min(s.seconds for s in own), max(s.seconds for s in own)),
        before=median(s.before for s in own),
        denoise=median(s.denoise for s in own),
        after=median(s.after for s in own),
        speedup=median(b.seconds for b, _ in pairs) / median(s.seconds for s in own),
        speedup_range=(min(ratios), max(ratios)),
        denoise_speedup=median(b.denoise for b, _ in pairs) / max(median(s.denoise for s in own), 1e-9),
        cpu_speedup=_cpu_speedup(pairs),
        psnr=_mean(psnrs),
        psnr_worst=min(psnrs, default=None),
        ssim=_mean([q.ssim for q in judged]),
        flicker_difference=_mean([q.flicker_difference for q in judged]),
        frame_difference_psnr=_mean([q.frame_difference_psnr for q in judged]),
        adherence=_mean([q.correct for q in judged]),
        attributes=_attributes([q.matches for q in judged]),
        computed=fmean(s.computed for s in own),
        predicted=fmean(s.predicted for s in own),
        dropped=fmean(s.dropped for s in own),
        extra_bytes=max(s.extra_bytes for s in own),
        peak_bytes=max(peaks, default=None),
        runs=len(own),
        equal_time_to=tuple(equal_time_to),
        snr=_mean(snrs),
        snr_worst=min(snrs, default=None),
        si_sdr=_mean([q.si_sdr for q in judged]),
        stft_distance=_mean([q.stft_distance for q in judged]),
        idle=why_idle(ledger.levers.get(label, ()), ledger.notes.get(label, ())),
        **_measures(label, pairs, ledger),
    )


def why_idle(levers: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> str:
    """Why none of these levers acted, as a report tells of them; "" where one did, and where there are none."""
    if not levers or any(lever["engaged"] for lever in levers):
        return ""
    return "; ".join([*(lever["reason"] for lever in levers), *notes])


def _measures(label: str, pairs: Sequence[tuple[Sample, Sample]], ledger: Measurements) -> dict[str, Any]:
    """What needs no reference, and how far the rest may be off."""
    own = [sample for _, sample in pairs]
    judged = [sample.quality for sample in own if sample.quality is not None]
    psnrs = [quality.psnr for quality in judged if quality.psnr is not None]
    correct = [quality.correct for quality in judged if quality.correct is not None]
    seconds = [sample.seconds for sample in own]
    return {
        "speedup_interval": of_ratio([base.seconds for base, _ in pairs], seconds) if len(own) > 1 else None,
        "psnr_interval": of_mean(psnrs) if len(psnrs) > 1 else None,
        "adherence_range": of_share(sum(correct), len(correct)) if correct else None,
        "seconds_per_correct": fmean(seconds) * len(correct) / sum(correct) if any(correct) else None,
        "flicker": _mean([q.flicker for q in judged]),
        "warping_error": _mean([q.warping_error for q in judged]),
        "diversity": _mean([diversity(clips) for (name, _), clips in ledger.thumbnails.items() if name == label]),
        "lpips": _mean([q.lpips for q in judged]),
        "teraflops": ledger.teraflops.get(label),
        "joules": _mean([sample.joules for sample in own]),
    }


def _partner(sample: Sample, ledger: Measurements) -> Sample:
    """The unaccelerated run that was measured in the same round as `sample`."""
    return next(
        other
        for other in ledger.samples
        if other.label == BASELINE
        and (other.batch, other.prompt, other.seed, other.repeat)
        == (sample.batch, sample.prompt, sample.seed, sample.repeat)
    )


def _cpu_speedup(pairs: Sequence[tuple[Sample, Sample]]) -> float | None:
    """The ratio of processor times; None where the work is done elsewhere."""
    ours, theirs = median(s.cpu_seconds for _, s in pairs), median(b.cpu_seconds for b, _ in pairs)
    on_processor = all(s.peak_bytes is None for _, s in pairs)
    return theirs / ours if on_processor and ours > 0 else None


def _mean(values: Sequence[float | None]) -> float | None:
    present = [float(value) for value in values if value is not None]
    return fmean(present) if present else None


def _attributes(matches: Sequence[dict[str, bool]]) -> dict[str, float]:
    names = dict.fromkeys(name for match in matches for name in match)
    return {name: fmean(match[name] for match in matches if name in match) for name in names}
