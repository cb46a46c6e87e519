"""What is measured: variants, samples of their runs, and the quality of what they made."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from itertools import chain, count
from typing import Any, Literal

from accel.measure.clip_store import ClipStore
from accel.measure.metrics import Clip
from accel.measure.output import PipelineOutput

Kind = Literal["baseline", "recipe", "other", "fewer_steps", "part"]
Verifier = Callable[[Any, str], Any]  # of frames, or of a sound's samples where there are none
BASELINE = "unaccelerated"
INDENTED: tuple[Kind, ...] = ("fewer_steps", "part")  # those that are measured for the sake of others
CANDIDATES: tuple[Kind, ...] = ("recipe", "other")  # those whose speed and quality are the question


@dataclass(frozen=True)
class Variant:
    """One way to run the pipeline.

    `recipe` is what :func:`accel.accelerate` takes (preset name, Recipe, path), or a function that takes the
    pipeline, accelerates it in a way of its own and returns a function that undoes this (for comparing with
    other libraries).
    """

    label: str
    kind: Kind
    steps: int
    recipe: Any


def free_label(name: str, taken: Collection[str]) -> str:
    """The name, with a number behind it where another variant is called so: people label theirs as they like."""
    numbered = (f"{name} ({number})" for number in count(2))
    return next(label for label in chain([name], numbered) if label not in taken)


@dataclass(frozen=True)
class Quality:
    """One output against the unaccelerated one of the same prompt and seed. None where a metric does not apply:
    the first four are of frames, the three of sound are `snr`, `si_sdr` and `stft_distance`. `flicker` and
    `warping_error` are its own, and those of an unaccelerated output are known too.
    """

    psnr: float | None = None
    ssim: float | None = None
    flicker_difference: float | None = None
    frame_difference_psnr: float | None = None
    correct: bool | None = None
    matches: dict[str, bool] = field(default_factory=dict)
    others: dict[str, float] = field(default_factory=dict)
    snr: float | None = None
    si_sdr: float | None = None
    stft_distance: float | None = None
    flicker: float | None = None
    warping_error: float | None = None
    lpips: float | None = None

    @property
    def decibels(self) -> float | None:
        """PSNR of frames, or SNR of a sound where there are none."""
        return self.psnr if self.psnr is not None else self.snr


@dataclass(frozen=True)
class Sample:
    """One measured call of the pipeline.

    Times are wall-clock seconds, but for `cpu_seconds`, the processor time of this process (all threads): on a busy
    machine it tells how much of a wall-clock time was waiting. `batch` numbers the interleaved batches.
    """

    label: str
    batch: int
    prompt: int
    seed: int
    repeat: int
    seconds: float
    cpu_seconds: float
    before: float
    denoise: float
    after: float
    computed: int
    predicted: int
    dropped: int
    extra_bytes: int
    peak_bytes: int | None
    quality: Quality | None = None
    joules: float | None = None

    @property
    def phases(self) -> dict[str, float]:
        """Seconds by phase."""
        return by_phase(self.seconds, self.before, self.denoise, self.after)


def by_phase(seconds: float, before: float, denoise: float, after: float) -> dict[str, float]:
    """The denoiser's are those of all steps, with their scheduler; the rest is what the pipeline's call took besides
    the three.
    """
    known = {"text": before, "denoiser": denoise, "decoder": after}
    return known | {"rest": max(seconds - sum(known.values()), 0.0)}


@dataclass
class Measurements:
    """Everything measured so far: samples, and for each variant what its first run looked like."""

    samples: list[Sample] = field(default_factory=list)
    timelines: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    levers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    recipes: dict[str, Any] = field(default_factory=dict)
    clips: ClipStore = field(default_factory=ClipStore)
    sounds: ClipStore = field(default_factory=ClipStore)
    size: dict[str, Any] = field(default_factory=lambda: PipelineOutput().size)
    digests: dict[tuple[int, int], set[str]] = field(default_factory=dict)
    thumbnails: dict[tuple[str, int], list[Clip]] = field(default_factory=dict)
    teraflops: dict[str, float] = field(default_factory=dict)

    @property
    def is_repeatable(self) -> bool | None:
        """Whether the unaccelerated pipeline gave the same bits each time; None while nothing ran twice."""
        runs = sum(1 for sample in self.samples if sample.label == BASELINE)
        return None if runs <= len(self.digests) else all(len(found) == 1 for found in self.digests.values())
