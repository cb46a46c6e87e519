"""Sound: what a pipeline made, as a file, and as a picture."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]

MOST_CHANNELS = 8  # latents have more
SPOKEN_BY = ("vocoder", "audio_vae", "sound_tokenizer", "vae", "unet")
"""The components that a sound comes out of, the last one of a pipeline first."""
RATES = ("output_sampling_rate", "sampling_rate", "sample_rate")
"""What their configurations call the number of samples in a second."""

_WINDOW = 1024  # samples that a column of a spectrogram hears
_ROWS, _COLUMNS = 256, 768
_RANGE = 80.0  # decibels from black to white
_FLOAT_TO_16 = 32767.0


@dataclass(frozen=True, eq=False)
class Sound:
    """samples: float32 (samples, channels), 1.0 is full scale. rate: samples in a second."""

    samples: Samples
    rate: int

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate

    @property
    def peak(self) -> float:
        """Above 1 a file clips it."""
        return float(np.abs(self.samples).max(initial=0.0))

    def minus(self, other: Sound) -> Sound:
        """The difference, where both are equally long."""
        return Sound(self.samples - other.samples, self.rate)

    def pcm(self) -> NDArray[np.int16]:
        """The samples as a file has them: 16 bits, clipped at full scale."""
        return np.asarray(np.rint(np.clip(self.samples, -1.0, 1.0) * _FLOAT_TO_16), "<i2")


def sampling_rate(pipe: Any) -> int | None:
    """Samples in a second of what the pipeline makes, as its vocoder or autoencoder says; None where none does."""
    for name in SPOKEN_BY:
        config = getattr(getattr(pipe, name, None), "config", None)
        for rate in RATES:
            found = getattr(config, rate, None)
            if type(found) is int and found > 0:
                return found
    return None


def to_samples(value: Any) -> Samples:
    """One sound as float32 (samples, channels), from an array or tensor of one or two axes, channels on the shorter.

    Raises ValueError for latents and for values that are not finite.
    """
    array = np.asarray(value.detach().float().cpu() if hasattr(value, "cpu") else value, np.float32)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim == 2 and array.shape[0] < array.shape[1]:
        array = array.T
    if array.ndim != 2 or not 1 <= array.shape[1] <= MOST_CHANNELS or not len(array):
        raise ValueError(
            f"an array of shape {np.shape(value)} is no sound of 1 to {MOST_CHANNELS} channels; decoded sound is "
            "needed, not latents (call the pipeline with output_type='np')."
        )
    if not np.isfinite(array).all():
        raise ValueError("the sound contains NaN or infinite values; try a wider dtype such as torch.float32.")
    return np.ascontiguousarray(array)


def spectrogram(sound: Sound) -> NDArray[np.uint8]:
    """The sound as a grey picture (height, width, 3): time to the right, low notes at the bottom, all channels
    together. White is a sine at full scale, black 80 dB below; so the same grey is as loud in every picture, and a
    difference of 3 levels is one decibel.
    """
    samples = np.pad(sound.samples, ((_WINDOW // 2, _WINDOW // 2), (0, 0)))
    columns = int(np.clip(len(sound.samples) // (_WINDOW // 8), 1, _COLUMNS))
    starts = np.linspace(0, len(samples) - _WINDOW, columns).astype(int)
    window = np.hanning(_WINDOW)
    power = np.zeros((columns, _WINDOW // 2 + 1))
    for channel in samples.T:
        frames = np.stack([channel[start : start + _WINDOW] for start in starts]) * window
        power += np.square(np.abs(np.fft.rfft(frames)) / (window.sum() / 2)) / samples.shape[1]
    rows = power[:, 1:].reshape(columns, _ROWS, -1).mean(-1).T[::-1]
    decibels = 10.0 * np.log10(np.maximum(rows, 1e-12))
    grey = np.rint(255.0 * np.clip(1.0 + decibels / _RANGE, 0.0, 1.0)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def encode_wav(sound: Sound, comment: str = "") -> bytes:
    """A WAV file of 16 bits, with `comment` in it as RIFF has comments (LIST INFO ICMT, in UTF-8)."""
    channels = sound.samples.shape[1]
    form = struct.pack("<HHIIHH", 1, channels, sound.rate, 2 * channels * sound.rate, 2 * channels, 16)
    noted = [_chunk(b"LIST", b"INFO" + _chunk(b"ICMT", comment.encode() + b"\0"))] if comment else []
    parts = [_chunk(b"fmt ", form), *noted, _chunk(b"data", sound.pcm().tobytes())]
    return _chunk(b"RIFF", b"WAVE" + b"".join(parts))


def _chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of RIFF; its content is filled up to an even length, which its size does not count."""
    if len(content) >= 2**32:
        raise ValueError("a WAV file holds at most 4 gigabytes; ask for the format flac.")
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def encode_flac(sound: Sound, tags: Mapping[str, str] | None = None) -> bytes:
    """A FLAC file of 16 bits: the samples of the WAV file in about half the bytes. `tags` are Vorbis comments.

    Raises RuntimeError where PyAV or its encoder is missing.
    """
    try:
        import av

        av.codec.Codec("flac", "w")
    except (ImportError, ValueError) as error:
        raise RuntimeError("writing FLAC needs PyAV: pip install av") from error
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="flac") as container:
        container.metadata.update(tags or {})
        stream: Any = container.add_stream("flac", rate=sound.rate)
        stream.layout, stream.format = layout_of(sound), "s16"
        mux_sound(container, stream, sound, "s16")
    return buffer.getvalue()


def layout_of(sound: Sound) -> str:
    """FFmpeg's name for so many channels."""
    channels = sound.samples.shape[1]
    return {1: "mono", 2: "stereo"}.get(channels, f"{channels} channels")


def mux_sound(container: Any, stream: Any, sound: Sound, kind: str) -> None:
    """Encodes the sound into an open container: `kind` is "s16" or "fltp", as the encoder takes its samples."""
    import av

    samples: Any = sound.pcm().reshape(1, -1) if kind == "s16" else np.clip(sound.samples, -1.0, 1.0).T
    step = 4096 * (sound.samples.shape[1] if kind == "s16" else 1)
    for number, start in enumerate(range(0, samples.shape[1], step)):
        part = np.ascontiguousarray(samples[:, start : start + step])
        frame: Any = av.AudioFrame.from_ndarray(part, format=kind, layout=layout_of(sound))
        frame.sample_rate, frame.pts = sound.rate, 4096 * number
        container.mux(stream.encode(frame))
    container.mux(stream.encode())
