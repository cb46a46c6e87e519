"""Linear patch autoencoders in closed form: principal components of the patches of clips, and of those of pictures.

A patch that is decoded by itself does not meet its neighbours. So the decoder of clips may have a second stage, a small
network that looks at the latents around each patch and adds what makes them fit.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from einops import rearrange

_HOME = "accel.autoencoders"
"""The module that saved pipelines name: diffusers takes classes from modules that are loaded already, and this one is
as soon as accel is."""


class PatchAutoencoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Maps clips of 4k+1 frames to latents (batch, z_dim, k+1, height/8, width/8), which is linear, and back.

    The first frame is repeated to fill its group of four, as in causal video autoencoders. It has the interface that
    `WanPipeline` expects from its `vae`. Fit it with `PatchAutoencoder.fit`, after which the way back is linear too;
    `python -m benchmarks.pocket.train_decoder` trains the second stage of the decoder.

    Args:
        z_dim: principal components kept.
        latents_mean, latents_std: per channel; the pipeline's normalised latents are (z - mean) / std.
        context: width of the second stage of the decoder, which costs less than a call of the denoiser. 0: none.
    """

    __module__ = _HOME

    @register_to_config
    def __init__(
        self,
        z_dim: int = 24,
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
        scale_factor_temporal: int = 4,
        scale_factor_spatial: int = 8,
        context: int = 0,
    ) -> None:
        super().__init__()
        size = 3 * scale_factor_temporal * scale_factor_spatial**2
        self.temporal, self.spatial = scale_factor_temporal, scale_factor_spatial
        self.mean = torch.nn.Parameter(torch.zeros(size), requires_grad=False)
        self.basis = torch.nn.Parameter(torch.zeros(z_dim, size), requires_grad=False)
        self.second_stage = _second_stage(z_dim, context, size) if context else None
        self.register_to_config(latents_mean=latents_mean or [0.0] * z_dim, latents_std=latents_std or [1.0] * z_dim)

    @classmethod
    def fit(cls, videos: torch.Tensor, z_dim: int = 24, whitening: float = 0.5) -> PatchAutoencoder:
        """Principal components of clips (batch, 3, 4k+1, height, width) in [-1, 1].

        `whitening` in [0, 1] says how far the channels are brought to equal variance: at 0.5 a channel keeps the
        square root of its standard deviation, so that the leading components still carry most of the loss. The
        normalised latents have mean square 1 over all channels.
        """
        model: PatchAutoencoder = cls(z_dim=z_dim)
        mean, basis, std = _principal(model._patches(videos).flatten(0, -2), z_dim, whitening)
        model.mean.data.copy_(mean)
        model.basis.data.copy_(basis)
        model.register_to_config(latents_std=[float(v) for v in std])
        return model

    def _patches(self, videos: torch.Tensor) -> torch.Tensor:
        first = videos[:, :, :1].expand(-1, -1, self.temporal - 1, -1, -1)
        video = torch.cat([first, videos], dim=2)
        if video.shape[2] % self.temporal or video.shape[3] % self.spatial or video.shape[4] % self.spatial:
            raise ValueError(
                f"the autoencoder takes {self.temporal}k+1 frames and sides that are multiples of {self.spatial}, "
                f"got {videos.shape[2]} frames of {videos.shape[3]}x{videos.shape[4]}"
            )
        return rearrange(
            video,
            "b c (f t) (h p) (w q) -> b f h w (c t p q)",
            t=self.temporal,
            p=self.spatial,
            q=self.spatial,
        )

    def encode(self, x: torch.Tensor, return_dict: bool = True) -> Any:
        """Clips (batch, 3, 4k+1, height, width) in [-1, 1] to a (deterministic) latent distribution."""
        latents = rearrange((self._patches(x) - self.mean) @ self.basis.T, "b f h w z -> b z f h w")
        return _point(latents, return_dict)

    def decode(self, z: torch.Tensor, return_dict: bool = True) -> Any:
        """Latents (batch, z_dim, k+1, height/8, width/8) to clips in [-1, 1]."""
        patches = rearrange(z, "b z f h w -> b f h w z") @ self.basis + self.mean
        if self.second_stage is not None:
            patches = patches + rearrange(self.second_stage(self.normalise(z)), "b s f h w -> b f h w s")
        video = rearrange(
            patches,
            "b f h w (c t p q) -> b c (f t) (h p) (w q)",
            t=self.temporal,
            p=self.spatial,
            q=self.spatial,
        )
        video = video[:, :, self.temporal - 1 :].clamp(-1, 1)
        return DecoderOutput(sample=video) if return_dict else (video,)

    def normalise(self, z: torch.Tensor) -> torch.Tensor:
        """Latents as the denoiser sees them: (z - latents_mean) / latents_std."""
        mean, std = self._scale(z)
        return (z - mean) / std

    def restore(self, z: torch.Tensor) -> torch.Tensor:
        """The latents of which these are the normalised ones."""
        mean, std = self._scale(z)
        return z * std + mean

    def _scale(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        each = (self.config.latents_mean, self.config.latents_std)
        mean, std = (torch.tensor(values, dtype=z.dtype, device=z.device).view(1, -1, 1, 1, 1) for values in each)
        return mean, std


class PicturePatchAutoencoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Maps pictures to latents (batch, latent_channels, height/4, width/4) and back, both linear.

    It has the interface that `StableDiffusionPipeline` expects from its `vae`. Its latents are normalised as those of
    :class:`PatchAutoencoder` are, by deviations of its own, so the scaling factor is 1. Fit it with `fit`.

    Args:
        latent_channels: principal components kept.
        block_out_channels: only their number means something, as the pipeline reads the scale off it: patches have
            sides of 2 to the power of one less. The values are the colours of one pixel at each scale.
    """

    __module__ = _HOME

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 8,
        block_out_channels: tuple[int, ...] = (3, 12, 48),
        scaling_factor: float = 1.0,
    ) -> None:
        super().__init__()
        self.side = 2 ** (len(block_out_channels) - 1)
        size = 3 * self.side**2
        self.mean = torch.nn.Parameter(torch.zeros(size), requires_grad=False)
        self.basis = torch.nn.Parameter(torch.zeros(latent_channels, size), requires_grad=False)
        self.deviation = torch.nn.Parameter(torch.ones(latent_channels), requires_grad=False)

    @classmethod
    def fit(cls, pictures: torch.Tensor, latent_channels: int = 8, whitening: float = 0.5) -> PicturePatchAutoencoder:
        """Principal components of pictures (batch, 3, height, width) in [-1, 1]; `whitening` as for clips."""
        model: PicturePatchAutoencoder = cls(latent_channels)
        parts = _principal(model._patches(pictures).flatten(0, -2), latent_channels, whitening)
        for parameter, value in zip((model.mean, model.basis, model.deviation), parts, strict=True):
            parameter.data.copy_(value)
        return model

    def _patches(self, pictures: torch.Tensor) -> torch.Tensor:
        if pictures.shape[2] % self.side or pictures.shape[3] % self.side:
            raise ValueError(
                f"the autoencoder takes pictures whose sides are multiples of {self.side}, "
                f"got {pictures.shape[2]}x{pictures.shape[3]}"
            )
        return rearrange(pictures, "b c (h p) (w q) -> b h w (c p q)", p=self.side, q=self.side)

    def encode(self, x: torch.Tensor, return_dict: bool = True) -> Any:
        """Pictures (batch, 3, height, width) in [-1, 1] to a (deterministic) latent distribution."""
        latents = (self._patches(x) - self.mean) @ self.basis.T / self.deviation
        return _point(rearrange(latents, "b h w z -> b z h w"), return_dict)

    def decode(self, z: torch.Tensor, return_dict: bool = True, generator: torch.Generator | None = None) -> Any:
        """Latents (batch, latent_channels, height/4, width/4) to pictures in [-1, 1]; nothing in it is random."""
        patches = (rearrange(z, "b z h w -> b h w z") * self.deviation) @ self.basis + self.mean
        pictures = rearrange(patches, "b h w (c p q) -> b c (h p) (w q)", p=self.side, q=self.side).clamp(-1, 1)
        return DecoderOutput(sample=pictures) if return_dict else (pictures,)


def _second_stage(channels: int, width: int, size: int) -> torch.nn.Sequential:
    """What to add to each patch, from the 3x3x3 latents around it; nothing, before it is trained."""
    last = torch.nn.Conv3d(width, size, 1)
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.zeros_(last.bias)
    return torch.nn.Sequential(torch.nn.Conv3d(channels, width, 3, padding=1), torch.nn.SiLU(), last)


def _principal(patches: torch.Tensor, count: int, whitening: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of patches (n, size): their mean, leading principal components (count, size), and by what to divide each."""
    patches = patches.double()
    mean = patches.mean(0)
    values, vectors = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
    deviation = values.flip(0)[:count].clamp_min(1e-12).sqrt()
    std = deviation**whitening
    return mean, vectors.flip(1)[:, :count].T, std * (deviation / std).square().mean().sqrt()


def _point(latents: torch.Tensor, return_dict: bool) -> Any:
    # A log-variance of -30 clamps to a standard deviation of about 3e-7: a point, in the shape callers expect.
    posterior = DiagonalGaussianDistribution(torch.cat([latents, torch.full_like(latents, -30.0)], dim=1))
    return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)
