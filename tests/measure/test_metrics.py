from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from accel.measure.metrics import (
    flicker,
    frame_difference_psnr,
    psnr,
    ssim,
    temporal_flicker_difference,
    to_clips,
    to_frames,
)


def clip(frames: int = 3, height: int = 16, width: int = 20, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).random((frames, height, width, 3), dtype=np.float32)


def test_psnr_of_a_constant_error_is_the_formula() -> None:
    reference = np.full((2, 16, 16, 3), 0.5, np.float32)
    assert psnr(reference + np.float32(0.1), reference) == pytest.approx(20.0, abs=1e-4)


def test_psnr_is_the_mean_over_frames_not_of_the_mean_error() -> None:
    reference = np.full((2, 16, 16, 3), 0.5, np.float32)
    candidate = reference + np.float32([0.1, 0.01]).reshape(2, 1, 1, 1)
    assert psnr(candidate, reference) == pytest.approx(30.0, abs=1e-3)


def test_identical_frames_count_as_100_dB() -> None:
    assert psnr(clip(), clip()) == 100.0


def test_ssim_is_one_for_identical_clips_and_falls_with_noise() -> None:
    noise = np.random.default_rng(1).normal(0, 1, clip().shape)
    scores = [ssim(np.clip(clip() + size * noise, 0, 1), clip()) for size in (0.0, 0.05, 0.3)]
    assert scores[0] == pytest.approx(1.0)
    assert scores[0] > scores[1] > scores[2]


def test_ssim_follows_the_published_formula_for_constant_frames() -> None:
    dark, light = np.full((1, 16, 16, 3), 0.4, np.float32), np.full((1, 16, 16, 3), 0.6, np.float32)
    c1 = 0.01**2  # constant frames have no variance, so only the term of the means is left
    expected = (2 * 0.4 * 0.6 + c1) / (0.4**2 + 0.6**2 + c1)
    assert ssim(dark, light) == pytest.approx(expected, abs=1e-5)


def test_flicker_difference_is_signed() -> None:
    still = np.full((4, 16, 16, 3), 0.5, np.float32)
    shaking = still + np.float32([0, 0.2, 0, 0.2]).reshape(4, 1, 1, 1)
    assert flicker(still) == 0.0
    assert temporal_flicker_difference(shaking, still) == pytest.approx(0.2, abs=1e-6)
    assert temporal_flicker_difference(still, shaking) == pytest.approx(-0.2, abs=1e-6)


def test_frame_difference_psnr_ignores_a_constant_shift_and_sees_jitter() -> None:
    reference = clip() * np.float32(0.5)
    jitter = np.float32([0, 0.1, 0]).reshape(3, 1, 1, 1)
    assert frame_difference_psnr(reference + np.float32(0.1), reference) == 100.0
    assert frame_difference_psnr(reference + jitter, reference) == pytest.approx(20.0, abs=1e-3)


@pytest.mark.parametrize("metric", [psnr, ssim, temporal_flicker_difference, frame_difference_psnr])
def test_clips_of_different_shapes_are_refused(metric: Any) -> None:
    with pytest.raises(ValueError, match="different shapes"):
        metric(clip(3), clip(4))


def test_metrics_say_where_they_do_not_apply() -> None:
    with pytest.raises(ValueError, match="at least two frames"):
        temporal_flicker_difference(clip(1), clip(1))
    with pytest.raises(ValueError, match="at least 11x11"):
        ssim(clip(1, 8, 8), clip(1, 8, 8))
    with pytest.raises(ValueError, match="convert it with to_frames"):
        psnr(clip()[0], clip()[0])


def pil_frames(pixels: np.ndarray[Any, Any]) -> list[Image.Image]:
    return [Image.fromarray(frame) for frame in np.rint(pixels * 255).astype(np.uint8)]


def torch_frames(pixels: np.ndarray[Any, Any]) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


VIDEO_OUTPUTS = {
    "numpy batch": lambda p: SimpleNamespace(frames=p[None]),
    "torch batch": lambda p: SimpleNamespace(frames=torch_frames(p)[None]),
    "list of lists of PIL": lambda p: SimpleNamespace(frames=[pil_frames(p)]),
    "flat list of PIL": lambda p: SimpleNamespace(frames=pil_frames(p)),
    "frames without batch": lambda p: SimpleNamespace(frames=p),
    "list of numpy clips": lambda p: SimpleNamespace(frames=[p]),
    "tuple": lambda p: (p[None],),
    "numpy clip": lambda p: p,
    "torch clip": torch_frames,
    "torch clip, channels before frames": lambda p: torch_frames(p).permute(1, 0, 2, 3)[None],
    "half precision": lambda p: torch_frames(p).to(torch.bfloat16),
    "PIL frames": pil_frames,
    "list of frames": lambda p: list(p),
    "uint8": lambda p: np.rint(p * 255).astype(np.uint8),
    "requires grad": lambda p: torch_frames(p).requires_grad_(),
}


@pytest.mark.parametrize("kind", VIDEO_OUTPUTS)
def test_every_form_of_a_video_becomes_the_same_frames(kind: str) -> None:
    pixels = clip(5)
    frames = to_frames(VIDEO_OUTPUTS[kind](pixels))
    assert frames.dtype == np.float32
    assert frames.shape == pixels.shape
    np.testing.assert_allclose(frames, pixels, atol=3e-3)


def test_images_are_clips_of_one_frame() -> None:
    pixels = clip(2)
    for images in (pil_frames(pixels), pixels, torch_frames(pixels)):
        found = to_clips(SimpleNamespace(images=images))
        assert [each.shape for each in found] == [(1, 16, 20, 3)] * 2
        np.testing.assert_allclose(found[1][0], pixels[1], atol=3e-3)


def test_a_batch_of_videos_is_separate_clips() -> None:
    batch = np.stack([clip(seed=1), clip(seed=2)])
    np.testing.assert_array_equal(to_clips(SimpleNamespace(frames=batch))[1], batch[1])
    with pytest.raises(ValueError, match="batch of 2"):
        to_frames(SimpleNamespace(frames=batch))


def test_grey_is_repeated_and_alpha_dropped() -> None:
    pixels = clip(1)
    np.testing.assert_array_equal(to_frames(pixels[..., :1])[..., 2], pixels[..., 0])
    np.testing.assert_array_equal(to_frames(np.concatenate([pixels, pixels[..., :1]], -1)), pixels)


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (np.full((2, 16, 16, 3), -0.5, np.float32), r"must lie in \[0, 1\]"),
        (np.full((2, 16, 16, 3), np.nan, np.float32), "NaN"),
        (torch.zeros(2, 16, 8, 8), "not latents"),
        (np.zeros((2, 16, 16, 3), np.int64), "no known range"),
    ],
)
def test_what_is_not_a_picture_is_refused(output: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        to_frames(output)


@pytest.mark.parametrize("output", ["text", 3, [], np.zeros((4, 4))])
def test_other_objects_are_refused(output: Any) -> None:
    with pytest.raises(TypeError, match="cannot read frames"):
        to_frames(output)
