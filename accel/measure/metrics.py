"""Fidelity of one clip to another, and the conversion of any diffusers output into clips.

A clip is a float32 array (frames, height, width, 3) with values in [0, 1]; an image is a clip of one frame.
Every function here states differences on that scale (data range 1.0).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Clip = NDArray[np.float32]

DATA_RANGE = 1.0
MAX_PSNR = 100.0
SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
_COLOUR_CHANNELS = (1, 3, 4)
_RANGE_TOLERANCE = 1e-3


def psnr(candidate: NDArray[Any], reference: NDArray[Any]) -> float:
    """Peak signal-to-noise ratio in decibels: per frame, then the mean over the frames.

    The convention of the published evaluations of video caches (TeaCache, PAB): values in [0, 1],
    10 log10(1 / MSE) for each frame, 100 dB for a frame that is identical (MSE below 1e-10).
    Both clips are (frames, height, width, 3). Raises ValueError when their shapes differ.
    Below about 15 dB it says only that the picture differs, not that it is worse.
    """
    _require_same_shape(candidate, reference)
    return _mean_psnr(candidate.astype(np.float64) - reference)


def ssim(candidate: NDArray[Any], reference: NDArray[Any]) -> float:
    """Structural similarity, 1.0 for identical clips: the mean over frames, channels and the valid region.

    Wang et al. 2004: Gaussian window 11 x 11 with sigma 1.5, C1 = 0.01 squared, C2 = 0.03 squared, data range
    1. Raises ValueError when the shapes differ or a frame is smaller than the window.
    """
    _require_same_shape(candidate, reference)
    if min(reference.shape[1:3]) < SSIM_WINDOW:
        raise ValueError(
            f"ssim needs frames of at least {SSIM_WINDOW}x{SSIM_WINDOW} pixels, these are "
            f"{reference.shape[2]}x{reference.shape[1]}; use psnr for smaller ones."
        )
    from skimage.metrics import structural_similarity

    scores = [
        structural_similarity(
            ours.astype(np.float64),
            theirs.astype(np.float64),
            channel_axis=-1,
            data_range=DATA_RANGE,
            gaussian_weights=True,
            sigma=SSIM_SIGMA,
            use_sample_covariance=False,
        )
        for ours, theirs in zip(candidate, reference, strict=True)
    ]
    return float(np.mean(scores))


def flicker(clip: NDArray[Any]) -> float:
    """Mean absolute change from one frame to the next, in [0, 1]. Raises ValueError for a single frame."""
    return float(np.mean(np.abs(_frame_differences(clip))))


def temporal_flicker_difference(candidate: NDArray[Any], reference: NDArray[Any]) -> float:
    """How much more the candidate changes from frame to frame than the reference does.

    flicker(candidate) - flicker(reference), in [-1, 1]: above 0 the candidate flickers (or moves) more,
    below 0 it is smoother, 0 is the same amount. Raises ValueError for different shapes or a single frame.
    """
    _require_same_shape(candidate, reference)
    return flicker(candidate) - flicker(reference)


def frame_difference_psnr(candidate: NDArray[Any], reference: NDArray[Any]) -> float:
    """PSNR between the frame-to-frame changes of both clips, in decibels (data range 1.0).

    A constant colour shift leaves it untouched; jitter that PSNR averages away lowers it.
    Raises ValueError for different shapes or a single frame.
    """
    _require_same_shape(candidate, reference)
    return _mean_psnr(_frame_differences(candidate) - _frame_differences(reference))


def to_frames(output: Any) -> Clip:
    """The one clip in a diffusers output, float32 (frames, height, width, 3) in [0, 1].

    Accepts what :func:`to_clips` accepts. Raises ValueError when the output holds a batch of several clips.
    """
    clips = to_clips(output)
    if len(clips) != 1:
        raise ValueError(f"expected one image or video, got a batch of {len(clips)}; use to_clips for a batch.")
    return clips[0]


def to_clips(output: Any) -> list[Clip]:
    """Every image or video of a diffusers output, each float32 (frames, height, width, 3) in [0, 1].

    `output` may be a pipeline output (with `.frames` or `.images`), the tuple that `return_dict=False` gives,
    a PIL image, a list of PIL images (the frames of one clip), or a numpy array or tensor: 3 dimensions are
    one image, 4 one clip, 5 a batch of clips. uint8 is divided by 255; floats must lie in [0, 1]. Grey
    becomes RGB, alpha is dropped. Raises ValueError for latents, values out of range or not finite, and
    TypeError for anything else.
    """
    if getattr(output, "frames", None) is not None:
        return _batch(output.frames, per_item_frames=True)
    if getattr(output, "images", None) is not None:
        return _batch(output.images, per_item_frames=False)
    if isinstance(output, tuple) and output:
        return to_clips(output[0])
    if isinstance(output, list) and output and _ndim(output[0]) == 4:
        return [_clip(item) for item in output]
    if isinstance(output, list) and output and isinstance(output[0], list):
        return [_clip(item) for item in output]
    if _ndim(output) == 5:
        return [_clip(item) for item in output]
    return [_clip(output)]


def _batch(items: Any, *, per_item_frames: bool) -> list[Clip]:
    """The clips of a pipeline output: its first axis is the batch, except where only one clip was given."""
    is_single_clip = per_item_frames and _is_flat_clip(items)
    return [_clip(items)] if is_single_clip else [_clip(item) for item in items]


def _is_flat_clip(items: Any) -> bool:
    """Some video pipelines return the frames of their only clip without a batch axis."""
    first = items[0] if isinstance(items, Sequence) and items else items
    return _ndim(items) == 4 or _is_image(first) or (isinstance(items, list) and _ndim(first) == 3)


def _clip(value: Any) -> Clip:
    if _is_image(value):
        value = [value]
    if isinstance(value, list) and value and all(_is_image(frame) for frame in value):
        value = np.stack([np.asarray(frame.convert("RGB")) for frame in value])
    if isinstance(value, list) and value and all(_ndim(frame) == 3 for frame in value):
        value = np.stack([_to_numpy(frame) for frame in value])
    if _ndim(value) not in (3, 4):
        raise TypeError(
            f"cannot read frames from {type(value).__name__}; "
            "pass a pipeline output, PIL images, or an array with 3, 4 or 5 dimensions."
        )
    array = _to_numpy(value)
    return _to_unit_floats(_to_rgb(array[None] if array.ndim == 3 else array, prefer_first=hasattr(value, "cpu")))


def _to_numpy(value: Any) -> NDArray[Any]:
    if hasattr(value, "cpu"):
        tensor = value.detach().cpu()
        return np.asarray((tensor.float() if tensor.is_floating_point() else tensor).numpy())
    return np.asarray(value)


def _to_rgb(frames: NDArray[Any], *, prefer_first: bool) -> NDArray[Any]:
    """(F, C, H, W), (C, F, H, W) or (F, H, W, C) to (F, H, W, 3); where both fit, channels come first in tensors."""
    order = (1, -1) if prefer_first else (-1, 1)
    axis = next((a for a in (*order, 0) if frames.shape[a] in _COLOUR_CHANNELS), None)
    if axis is None:
        raise ValueError(
            f"no axis of shape {frames.shape} has 1, 3 or 4 colour channels; "
            "decoded frames are needed, not latents (call the pipeline with output_type='np')."
        )
    channels_last = np.moveaxis(frames, axis, -1)
    return np.repeat(channels_last, 3, axis=-1) if channels_last.shape[-1] == 1 else channels_last[..., :3]


def _to_unit_floats(frames: NDArray[Any]) -> Clip:
    if frames.dtype == np.uint8:
        return np.asarray(frames.astype(np.float32) / np.float32(255.0))
    if not np.issubdtype(frames.dtype, np.floating):
        raise ValueError(f"frames of type {frames.dtype} have no known range; pass uint8 or floats in [0, 1].")
    if not np.isfinite(frames).all():
        raise ValueError("the frames contain NaN or infinite values; try a wider dtype such as torch.float32.")
    low, high = float(frames.min()), float(frames.max())
    if low < -_RANGE_TOLERANCE or high > 1.0 + _RANGE_TOLERANCE:
        raise ValueError(
            f"float frames must lie in [0, 1], these span [{low:.3g}, {high:.3g}]; rescale them first, or call the "
            "pipeline with output_type='np' if they are latents."
        )
    return np.asarray(np.clip(frames, 0.0, 1.0), np.float32)


def _mean_psnr(difference: NDArray[Any]) -> float:
    errors = np.mean(np.square(difference, dtype=np.float64), axis=(1, 2, 3))
    return float(np.mean([MAX_PSNR if e < 1e-10 else 10.0 * math.log10(DATA_RANGE**2 / e) for e in errors]))


def _frame_differences(clip: NDArray[Any]) -> NDArray[np.float64]:
    if clip.ndim != 4 or clip.shape[0] < 2:
        raise ValueError(f"temporal metrics need a clip of at least two frames, got shape {clip.shape}.")
    return np.diff(clip.astype(np.float64), axis=0)


def _require_same_shape(candidate: NDArray[Any], reference: NDArray[Any]) -> None:
    if candidate.shape != reference.shape:
        raise ValueError(
            f"the clips have different shapes, {candidate.shape} and {reference.shape}; "
            "generate both with the same size and number of frames."
        )
    if reference.ndim != 4 or reference.shape[-1] != 3 or 0 in reference.shape:
        raise ValueError(f"a clip is (frames, height, width, 3), got {reference.shape}; convert it with to_frames.")


def _is_image(value: Any) -> bool:
    return hasattr(value, "convert") and hasattr(value, "getbands")


def _ndim(value: Any) -> int:
    return len(value.shape) if hasattr(value, "shape") else 0
