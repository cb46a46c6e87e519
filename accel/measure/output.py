"""What a pipeline returns: frames, sound, or both. Whatever holds one output against another asks this."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel.measure.media import Pixels, to_pixels
from accel.measure.metrics import (
    SSIM_WINDOW,
    Clip,
    frame_difference_psnr,
    psnr,
    ssim,
    temporal_flicker_difference,
    to_clips,
)
from accel.measure.sound import RATES, Sound, sampling_rate, spectrogram, to_samples
from accel.measure.sound_metrics import si_sdr, snr, stft_distance

SOUNDS = {"audios": True, "audio": True, "sound": False}
"""The fields of pipeline outputs that hold sound, and whether their first axis is the batch."""

Metric = Callable[[Any, Any], float]
OF_FRAMES: dict[str, Metric] = {
    "psnr": psnr,
    "ssim": ssim,
    "flicker_difference": temporal_flicker_difference,
    "frame_difference_psnr": frame_difference_psnr,
}
OF_SOUND: dict[str, Metric] = {"snr": snr, "si_sdr": si_sdr, "stft_distance": stft_distance}
METRICS = OF_FRAMES | OF_SOUND
"""By name, functions (candidate, unaccelerated) of two arrays: the frames, or the samples of the sound."""


@dataclass(frozen=True, eq=False)
class PipelineOutput:
    """One sample of what a pipeline made. frames: float32 (frames, height, width, 3) in [0, 1], or None."""

    frames: Clip | None = None
    sound: Sound | None = None

    @property
    def main(self) -> NDArray[Any]:
        """What a metric or verifier is given: the frames, or else the samples (samples, channels) of the sound."""
        found = self.frames if self.frames is not None else self.heard.samples
        return found

    @property
    def leading(self) -> str:
        """The metric by which it is judged first, in decibels: that of its frames, or of its sound if it has none."""
        return "psnr" if self.frames is not None else "snr"

    @property
    def pixels(self) -> Pixels:
        """What is shown of it: its frames, or the spectrogram of its sound as one frame; uint8."""
        return to_pixels(self.frames) if self.frames is not None else spectrogram(self.heard)[None]

    @property
    def digest(self) -> str:
        """Equal for outputs of the same bits."""
        parts = [self.frames, self.sound.samples if self.sound else None]
        return hashlib.sha256(b"".join(part.tobytes() for part in parts if part is not None)).hexdigest()

    @property
    def size(self) -> dict[str, Any]:
        """frames, height and width (0 without frames); of sound also its seconds and its sampling rate."""
        shape = self.frames.shape[:3] if self.frames is not None else (0, 0, 0)
        heard = {"seconds": self.sound.seconds, "sampling_rate": self.sound.rate} if self.sound else {}
        return dict(zip(("frames", "height", "width"), shape, strict=True)) | heard

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        parts = [self.frames, self.sound.samples if self.sound else None]
        return sum(part.nbytes for part in parts if part is not None)

    @property
    def heard(self) -> Sound:
        """Its sound. Raises ValueError where it has none."""
        if self.sound is None:
            raise ValueError("this output has no sound.")
        return self.sound

    def copied(self) -> PipelineOutput:
        """The same in memory of its own."""
        sound = Sound(np.array(self.sound.samples), self.sound.rate) if self.sound else None
        return PipelineOutput(None if self.frames is None else np.array(self.frames), sound)


def outputs_of(output: Any, rate: int | None = None) -> list[PipelineOutput]:
    """Every sample of what a pipeline returned. `rate` is its `sampling_rate`, which an output does not tell.

    Frames are read as :func:`accel.measure.metrics.to_clips` reads them, sound from the fields of `SOUNDS`. Raises
    ValueError for latents, for values that are not finite, and for sound of which nobody says how fast it is.
    """
    sounds = _sounds(output, rate)
    if sounds and all(getattr(output, name, None) is None for name in ("frames", "images")):
        return [PipelineOutput(sound=sound) for sound in sounds]
    clips = to_clips(output)
    tracks: list[Sound | None] = [*sounds] or [None] * len(clips)
    if sounds and len(sounds) != len(clips):
        raise ValueError(f"the pipeline returned {len(clips)} clips and {len(sounds)} sounds.")
    return [PipelineOutput(clip, sound) for clip, sound in zip(clips, tracks, strict=True)]


def output_of(output: Any, pipe: Any = None) -> PipelineOutput:
    """The one sample of what `pipe` returned. Raises ValueError for a batch of several."""
    found = outputs_of(output, sampling_rate(pipe))
    if len(found) != 1:
        raise ValueError(f"expected one image, video or sound, got a batch of {len(found)}.")
    return found[0]


def _sounds(output: Any, rate: int | None) -> list[Sound]:
    for name, batched in SOUNDS.items():
        value = getattr(output, name, None)
        if value is None:
            continue
        if rate is None:
            raise ValueError(
                "the pipeline makes sound, but neither its vocoder nor its autoencoder says how many samples a second "
                f"has (a setting called {', '.join(RATES)})."
            )
        return [Sound(to_samples(each), rate) for each in (value if batched else [value])]
    return []


def fidelity(
    candidate: PipelineOutput, reference: PipelineOutput, names: Collection[str] = tuple(METRICS)
) -> dict[str, float]:
    """Of the metrics called `names` those that apply, of one output against the unaccelerated one.

    Raises ValueError where they differ in size or length.
    """
    found: dict[str, float] = {}
    for name in _applicable(reference):
        if name in names:
            ours, theirs = (_part(made, name) for made in (candidate, reference))
            found[name] = METRICS[name](ours, theirs)
    return found


def _applicable(made: PipelineOutput) -> Iterator[str]:
    """SSIM has a window that must fit, and flicker is between frames."""
    if made.frames is not None:
        left_out = {"ssim"} if min(made.frames.shape[1:3]) < SSIM_WINDOW else set()
        left_out |= {"flicker_difference", "frame_difference_psnr"} if len(made.frames) < 2 else set()
        yield from (name for name in OF_FRAMES if name not in left_out)
    if made.sound is not None:
        yield from OF_SOUND


def _part(made: PipelineOutput, name: str) -> NDArray[Any]:
    """What a metric is of; nothing at all, of which it complains, where this is missing."""
    if name in OF_FRAMES:
        return made.frames if made.frames is not None else np.zeros((0, 0, 0, 3), np.float32)
    return made.sound.samples if made.sound is not None else np.zeros((0, 1), np.float32)
