"""A linear autoencoder of sound in closed form: the modified discrete cosine transform."""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput

from accel.pocket.autoencoder import _point


class LappedAutoencoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Maps sound (batch, 1, hop · n) to latents (batch, hop, n) and back, exactly but for half a hop at both ends.

    The transform of Princen, Johnson and Bradley (1987) with a sine window: frames of two hops overlap by half, and
    their aliasing cancels. It has the interface that `StableAudioPipeline` expects from its `vae`. `fit` sets how loud
    each channel is, so that latents have mean square 1.
    """

    @register_to_config
    def __init__(self, hop_length: int = 64, sampling_rate: int = 8000, audio_channels: int = 1) -> None:
        super().__init__()
        self.hop_length, self.sampling_rate = hop_length, sampling_rate
        self.deviation = torch.nn.Parameter(torch.ones(hop_length), requires_grad=False)

    @classmethod
    def fit(cls, sounds: torch.Tensor, hop_length: int, sampling_rate: int) -> LappedAutoencoder:
        """`sounds` is (batch, 1, samples) in [-1, 1]. A channel keeps the square root of its deviation, so that loud
        ones still carry most of the loss."""
        model: LappedAutoencoder = cls(hop_length, sampling_rate)
        deviation = model.encode(sounds).latent_dist.mode().square().mean((0, 2)).sqrt().clamp(min=1e-4)
        halfway = deviation.sqrt()
        model.deviation.data.copy_(halfway * (deviation / halfway).square().mean().sqrt())
        return model

    def encode(self, x: torch.Tensor, return_dict: bool = True) -> Any:
        """Sound (batch, 1, samples) to a (deterministic) latent distribution."""
        hop = self.hop_length
        padded = torch.nn.functional.pad(x[:, 0], (hop // 2, hop // 2))
        return _point((padded.unfold(-1, 2 * hop, hop) @ self._waves(x) / self.deviation).mT, return_dict)

    def decode(self, z: torch.Tensor, return_dict: bool = True) -> Any:
        """Latents (batch, hop, n) to sound."""
        hop = self.hop_length
        frames = (z.mT * self.deviation) @ self._waves(z).T
        sound = torch.nn.functional.pad(frames[..., :hop], (0, 0, 0, 1)) + torch.nn.functional.pad(
            frames[..., hop:], (0, 0, 1, 0)
        )
        sound = sound.flatten(1)[:, None, hop // 2 : -(hop // 2)]
        return DecoderOutput(sample=sound) if return_dict else (sound,)

    def _waves(self, like: torch.Tensor) -> torch.Tensor:
        """(2 · hop, hop): a windowed cosine for each channel."""
        hop = self.hop_length
        sample = torch.arange(2 * hop, dtype=torch.float64) + 0.5
        channel = torch.arange(hop, dtype=torch.float64) + 0.5
        waves = torch.cos(math.pi / hop * torch.outer(sample + hop / 2, channel)) * math.sqrt(2 / hop)
        return (waves * torch.sin(math.pi / (2 * hop) * sample)[:, None]).to(like)
