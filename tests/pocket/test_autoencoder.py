import numpy as np
import pytest
import torch

from accel.pocket.autoencoder import PatchAutoencoder
from accel.pocket.scenes import render, sample_scene


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
