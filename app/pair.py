"""What a run returns: its progress, and at the end a baseline and an accelerated clip with all that was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from accel.app.settings import StudioSettings
from accel.measure.media import Pixels
from accel.reasons import Code

Stage = Literal["waiting", "loading", "baseline", "accelerated", "measuring", "done"]
Winner = Literal["baseline", "accelerated", "same"]


class StudioError(Exception):
    """Why a request failed, in one sentence for the person who made it."""


class Cancelled(StudioError):
    """The request was stopped on request."""


@dataclass(frozen=True)
class Side:
    """One output: unaccelerated or accelerated.

    frames is uint8 (frames, height, width, 3), of sound alone its spectrogram. path is its file (PNG for one frame, MP4
    for several, WAV for sound) with the settings inside, heard the file of its sound, if there is any; they live as
    long as this object. seconds holds total, before (text encoding), denoise and after (decoding), without the time
    that previews took, and where the model runs on the processor also what all of it took of that. calls are the
    denoiser calls in order, each as `accel.report.CallRecord` has it. timeline has one character per step and stream (█
    computed, ◐ half of the batch, · predicted, ○ dropped). levers say what engaged and why.
    """

    frames: Pixels
    path: Path
    seconds: dict[str, float]
    calls: list[dict[str, Any]]
    timeline: dict[str, str]
    report: str
    levers: list[dict[str, Any]] = field(default_factory=list)
    peak_bytes: int | None = None
    heard: tuple[Path, ...] = ()

    @property
    def nbytes(self) -> int:
        """What it takes in memory, about: its frames, and all that is told of its calls."""
        return self.frames.nbytes + len(repr((self.calls, self.levers, self.timeline, self.report)))

    @property
    def computed(self) -> int:
        """Denoiser calls that were computed."""
        return sum(1 for call in self.calls if call["action"] == "computed")

    @property
    def steps(self) -> int:
        """Steps that were taken, at least 1."""
        return max(1, len({(call["run"], call["step"]) for call in self.calls}))

    def effort(self, phase: str) -> float:
        """Seconds of a phase: of processor time where that is known, as this hardly knows what else a machine does."""
        share = self.seconds["processor"] / max(self.seconds["total"], 1e-9) if "processor" in self.seconds else 1.0
        return self.seconds[phase] * share

    @property
    def idle(self) -> str:
        """Why nothing was accelerated; "" where a lever acted, and where there is none."""
        if not self.levers or any(lever["engaged"] for lever in self.levers):
            return ""
        short = (call["reason"] for call in self.calls if call.get("code") == Code.SHORT_RUN)
        return str(next(short, "; ".join(str(lever["reason"]) for lever in self.levers)))


def leading(metrics: Mapping[str, float | None]) -> tuple[str, float | None]:
    """By what a pair is judged first, and how much that is in dB: PSNR of frames, else SNR of a sound."""
    psnr, snr = metrics.get("psnr"), metrics.get("snr")
    return ("SNR", snr) if psnr is None and snr is not None else ("PSNR", psnr)


@dataclass(frozen=True)
class Pair:
    """Two clips of one request and how they differ.

    metrics: psnr (dB), ssim, flicker_difference; of sound snr, si_sdr, stft_distance (all dB; None where one does not
    apply); speedup and denoise_speedup: ratios of `Side.effort`, so of processor time where the model runs on the
    processor, else of wall-clock time; of a baseline that ran earlier at the pace that the machine has now. The clips
    were compared as the pipeline gave them, before rounding. key names this request; `timing_note` is a sentence about
    how far the speed-up can be trusted, "" for nothing to say; `notes` are sentences about anything else, such as a
    size that the pipeline has changed.
    """

    key: str
    settings: StudioSettings
    baseline: Side
    accelerated: Side
    metrics: dict[str, float | None]
    psnr_per_frame: tuple[float, ...]
    worst_frame: int
    baseline_reused: bool
    timing_note: str
    baseline_when: float
    fps: float
    when: float  # seconds since 1970
    label: str = ""  # in a sweep: the values of this point
    notes: tuple[str, ...] = ()
    difference: Side | None = None  # of two sounds: what is left, with its own spectrogram

    @property
    def nbytes(self) -> int:
        """What it takes in memory, about. A baseline that is shared counts in each of its pairs."""
        return (
            self.baseline.nbytes + self.accelerated.nbytes + len(repr(self.settings)) + len(repr(self.psnr_per_frame))
        )

    def summary(self) -> PairSummary:
        """The pair without its clips, for lists."""
        return PairSummary(self.key, self.settings, dict(self.metrics), self.label, self.when)


@dataclass(frozen=True)
class PairSummary:
    """A line of a history."""

    key: str
    settings: StudioSettings
    metrics: dict[str, float | None]
    label: str
    when: float


@dataclass(frozen=True)
class SeedDraft:
    """What a seed becomes, seen early: the middle frame, uint8 (H, W, 3)."""

    seed: int
    picture: Pixels


@dataclass(frozen=True)
class Update:
    """A request's state. position: how many jobs are before it in the queue, while it waits. preview: a small cheap
    picture of the clip as it will be, uint8 (H, W, 3). points: of a sweep, the pairs so far; number, of: the pair at
    hand, from 1, and how many there will be. drafts: those so far. note: a few words on what happens.
    """

    stage: Stage
    step: int = 0
    steps: int = 0
    seconds_left: float | None = None
    position: int | None = None
    preview: Pixels | None = None
    pair: Pair | None = None
    points: tuple[Pair, ...] = ()
    drafts: tuple[SeedDraft, ...] = ()
    number: int = 1
    of: int = 1
    note: str = ""


@dataclass(frozen=True)
class Cost:
    """What a request will take, in seconds on this device; None where nothing like it has run yet.

    computed_share: denoiser calls that the accelerated side computes, as a share of the baseline's, weighed with what a
    call costs. source: "measured" if this very request has run before. baseline_cached: only the accelerated side will
    run, and the other was made at `baseline_when`, in seconds since 1970.
    """

    seconds_baseline: float | None
    seconds_accelerated: float | None
    computed_share: float | None
    peak_bytes: int | None
    source: Literal["measured", "estimated"]
    baseline_cached: bool
    baseline_when: float | None = None


@dataclass(frozen=True)
class Vote:
    """Somebody's answer in a blind comparison, with the settings of the pair."""

    pair: str
    winner: Winner
    user: str
    settings: StudioSettings
    metrics: dict[str, float | None]
    when: float
