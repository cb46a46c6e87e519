"""What pipelines return, asked of the output and of the pipeline's own vocoder: no class of one is named anywhere."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from accel.measure.output import PipelineOutput, fidelity, output_of, outputs_of
from accel.measure.sound import Sound
from tests.tiny.zoo import ZOO

SOUND = Sound(np.random.default_rng(0).standard_normal((800, 1)).astype(np.float32), 400)
CLIP = np.random.default_rng(1).random((3, 16, 16, 3)).astype(np.float32)


def made_by(name: str) -> PipelineOutput:
    tiny = ZOO[name]
    pipe = tiny.build()
    arguments = tiny.arguments(pipe) | {"output_type": "np", "num_inference_steps": 2}
    return output_of(pipe(**arguments), pipe)


@pytest.mark.parametrize(
    ("name", "channels", "rate", "seconds"),
    [
        ("StableAudioPipeline", 2, 64, 2.0),
        ("AudioLDM2Pipeline", 1, 16_000, 0.1),
        ("LongCatAudioDiTPipeline", 1, 24, 3.5),
        ("AceStepPipeline", 2, 64, 60.0),
    ],
)
def test_pipelines_that_make_sound(name: str, channels: int, rate: int, seconds: float) -> None:
    made = made_by(name)
    assert made.frames is None and made.leading == "snr"
    assert made.heard.samples.shape == (round(rate * seconds), channels)
    assert made.size == {"frames": 0, "height": 0, "width": 0, "seconds": seconds, "sampling_rate": rate}
    assert made.pixels.ndim == 4 and len(made.pixels) == 1, "it is shown as a picture"


def test_a_film_with_sound() -> None:
    made = made_by("LTX2Pipeline")
    assert made.frames is not None and made.frames.shape[1:3] == (32, 32) and made.heard.rate == 16_000
    assert {"psnr", "ssim", "snr", "stft_distance"} < set(fidelity(made, made)) and made.leading == "psnr"


def test_a_batch_is_taken_apart() -> None:
    output = SimpleNamespace(audios=np.stack([SOUND.samples.T, 2 * SOUND.samples.T]))
    first, second = outputs_of(output, 400)
    np.testing.assert_array_equal(2 * first.heard.samples, second.heard.samples)
    with pytest.raises(ValueError, match="a batch of 2"):
        output_of(output, SimpleNamespace(vae=SimpleNamespace(config=SimpleNamespace(sampling_rate=400))))
    with pytest.raises(ValueError, match="how many samples a second"):
        outputs_of(output)


@pytest.mark.parametrize(
    ("made", "names"),
    [
        (PipelineOutput(CLIP[:1, :8]), {"psnr"}),
        (PipelineOutput(CLIP[:1]), {"psnr", "ssim"}),
        (PipelineOutput(CLIP), {"psnr", "ssim", "flicker_difference", "frame_difference_psnr"}),
        (PipelineOutput(sound=SOUND), {"snr", "si_sdr", "stft_distance"}),
    ],
)
def test_the_metrics_that_apply(made: PipelineOutput, names: set[str]) -> None:
    assert set(fidelity(made, made.copied())) == names
    assert set(fidelity(made, made, ["psnr", "snr"])) == names & {"psnr", "snr"}


def test_outputs_of_different_sizes_are_refused() -> None:
    short: Any = PipelineOutput(sound=Sound(SOUND.samples[:-1], 400))
    for one, other in ((short, PipelineOutput(sound=SOUND)), (PipelineOutput(CLIP), PipelineOutput(CLIP, SOUND))):
        with pytest.raises(ValueError):
            fidelity(one, other)


def test_equal_bits_have_equal_digests() -> None:
    assert PipelineOutput(CLIP, SOUND).digest == PipelineOutput(CLIP, SOUND).copied().digest
    assert PipelineOutput(CLIP).digest != PipelineOutput(CLIP, SOUND).digest
