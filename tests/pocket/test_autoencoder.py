import json

import numpy as np
import pytest
import torch

from accel.pocket import folder
from accel.pocket.autoencoder import PatchAutoencoder
from accel.pocket.scenes import render, sample_scene
from benchmarks.pocket.train_decoder import steps, with_second_stage


@pytest.fixture(scope="module")
def clips() -> torch.Tensor:
    rng = np.random.default_rng(7)
    drawn = np.stack([render(sample_scene(rng), 32, 32, 9) for _ in range(40)])
    return torch.from_numpy(drawn).permute(0, 4, 1, 2, 3) * 2 - 1


@pytest.fixture(scope="module")
def autoencoder(clips: torch.Tensor) -> PatchAutoencoder:
    return PatchAutoencoder.fit(clips, z_dim=24)


def encode(model: PatchAutoencoder, clips: torch.Tensor) -> torch.Tensor:
    return model.encode(clips).latent_dist.mode()


def test_shapes_follow_the_scale_factors(autoencoder, clips):
    latents = encode(autoencoder, clips[:2])
    assert latents.shape == (2, 24, 3, 4, 4)
    assert autoencoder.decode(latents, return_dict=False)[0].shape == clips[:2].shape


def test_encoding_what_was_decoded_changes_nothing(autoencoder):
    # Small latents stay clear of the clamp to [-1, 1]; the first group counts its repeated frame four times.
    latents = 0.05 * torch.randn(1, 24, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    again = encode(autoencoder, autoencoder.decode(latents).sample)
    assert torch.allclose(again[:, :, 1:], latents[:, :, 1:], atol=1e-4)


def test_encoding_is_affine(autoencoder, clips):
    a, b = clips[:1], clips[1:2]
    middle = encode(autoencoder, (a + b) / 2)
    assert torch.allclose(middle, (encode(autoencoder, a) + encode(autoencoder, b)) / 2, atol=1e-4)


def test_the_basis_is_orthonormal_and_more_channels_are_closer(autoencoder, clips):
    assert torch.allclose(autoencoder.basis @ autoencoder.basis.T, torch.eye(24), atol=1e-4)
    coarse = PatchAutoencoder.fit(clips, z_dim=4)
    errors = [(m.decode(encode(m, clips)).sample - clips).square().mean() for m in (coarse, autoencoder)]
    assert errors[1] < 0.7 * errors[0]


def test_normalised_latents_have_mean_square_one_and_keep_their_order(autoencoder, clips):
    latents = autoencoder.normalise(encode(autoencoder, clips))
    assert float(latents.square().mean()) == pytest.approx(1.0, rel=0.02)
    deviation = latents.std((0, 2, 3, 4))
    assert deviation[0] > 2 * deviation[-1] > 0


def test_save_and_load(autoencoder, clips, tmp_path):
    autoencoder.save_pretrained(tmp_path)
    loaded = PatchAutoencoder.from_pretrained(tmp_path)
    assert loaded.config.latents_std == autoencoder.config.latents_std
    assert torch.equal(encode(loaded, clips[:1]), encode(autoencoder, clips[:1]))


@pytest.mark.parametrize("shape", [(1, 3, 8, 32, 32), (1, 3, 9, 30, 32)])
def test_sizes_that_do_not_fit_are_refused(autoencoder, shape):
    with pytest.raises(ValueError, match="4k\\+1 frames and sides that are multiples of 8"):
        autoencoder.encode(torch.zeros(shape))


def test_an_untrained_second_stage_adds_nothing_and_is_saved(autoencoder, clips, tmp_path):
    staged = with_second_stage(autoencoder, 16)
    latents = encode(autoencoder, clips[:2])
    assert torch.equal(staged.decode(latents).sample, autoencoder.decode(latents).sample)
    torch.nn.init.normal_(staged.second_stage[-1].weight)
    staged.save_pretrained(tmp_path)
    loaded = PatchAutoencoder.from_pretrained(tmp_path)
    assert torch.equal(loaded.decode(latents).sample, staged.decode(latents).sample)
    assert not torch.equal(loaded.decode(latents).sample, autoencoder.decode(latents).sample)


def test_autoencoders_that_were_saved_without_a_second_stage_decode_as_they_did(autoencoder, clips, tmp_path):
    autoencoder.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({k: v for k, v in json.loads(config.read_text()).items() if k != "context"}))
    loaded = PatchAutoencoder.from_pretrained(tmp_path)
    latents = encode(autoencoder, clips[:1])
    assert loaded.second_stage is None
    assert torch.equal(loaded.decode(latents).sample, autoencoder.decode(latents).sample)


def test_the_packaged_decoder_has_no_seams_and_loses_nothing(clips):
    """On drawn clips: steps across borders are at most a fifth larger than those beside them."""
    packaged = PatchAutoencoder.from_pretrained(folder("video") / "vae")
    linear = with_second_stage(packaged, 0)
    latents = encode(packaged, clips)
    decoded, before = packaged.decode(latents).sample, linear.decode(latents).sample
    assert excess(decoded) < 0.2 < 0.5 < excess(before)
    assert (decoded - clips).square().mean() < (before - clips).square().mean()
    assert torch.equal(decoded, packaged.decode(latents).sample)


@torch.no_grad()
def excess(video: torch.Tensor) -> float:
    across, beside = steps(video, 8)
    return float(across.abs().mean() / beside.mean()) - 1
