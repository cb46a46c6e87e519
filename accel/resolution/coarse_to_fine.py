"""CoarseToFine: while noise is high, the denoiser is evaluated on means over blocks of the latents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from accel.anatomy import Anatomy
from accel.lever import InactiveLever, Lever
from accel.method import Method, finite_numbers, setting
from accel.resolution.coarse_lever import CoarseLever
from accel.resolution.pooling import UNKNOWN_PREDICTION


@dataclass(frozen=True)
class CoarseToFine(Method, lever="resolution"):
    """Evaluates the denoiser at a smaller size in the steps in front of noise level `until`.

    Latents x = a x0 + b noise are averaged over blocks of n = factor² frames pixels. The means are a mean(x0) +
    b/√n noise: latents of a smaller picture at a lower noise level, which the denoiser is told. Of its clean estimate,
    spread over the blocks, the output at full size is made, for whatever the model predicts. So pipeline, latents, loop
    and scheduler stay as they are; what is finer than a block keeps its noise meanwhile, with a clean estimate of zero.
    Where the data have nothing finer than a block this is exact.
    Sources: pyramidal flow matching (arXiv 2410.05954) and Bottleneck Sampling (arXiv 2503.18940) for the idea of small
    early steps; unlike there nothing is trained and nothing is noised anew.

    until: the flow time (1 is pure noise, for other models sigma / (1 + sigma)) at which full size begins; 1 is never
    small. frames: a video's latent frames that are averaged; their number must be a multiple of it. With factor 1 it is
    for clips longer than trained: of 57 frames that begin as 17, 79 % show their prompt, and of plain ones 29 %.
    maps: () takes means. `accel.resolution.measure(pipe, pictures, CoarseToFine(...))` finds the autoencoder's own: of
    all maps of a block to one latent that keep noise white, the one that agrees most with latents of smaller pictures.
    Cost: a small step costs 1/n of the tokens, and less of attention. No memory. A compiled denoiser is compiled again
    for the small size.
    Not where the picture must stay the one of full size: layout is settled in the small steps. The model must be at
    home at the small size too, and means of latents are only near what the autoencoder makes of a smaller picture: of
    the pocket model's, a third of the power is missing, because slopes within a patch are half as steep.
    Pocket video model at 128x128, processor time (`python -m benchmarks.another_clip`, docs/levers.md): with 0.5 and
    measured maps it is 2.6 times as fast, and 17 beside a cache, pooled keys and guidance. Clips are 13 to 14 dB from
    the plain ones; of 32 prompts 78 % are shown so and 59 % by plain clips, as this model is more at home at 64x64.
    """

    until: float = setting(0.8, 0.0, 1.0, "noise level at which full size begins; 1 is never small", dial=True)
    factor: int = setting(2, 1, 8, "rows, and columns, that are averaged; 1 with frames 1 is never small")
    frames: int = setting(1, 1, 8, "latent frames that are averaged")
    maps: tuple[float, ...] = ()

    data_free = True

    def __post_init__(self) -> None:
        super().__post_init__()
        channels = math.isqrt(len(self.maps) // (2 * self.factor**2))
        if not finite_numbers(self.maps) or 2 * self.factor**2 * channels**2 != len(self.maps):
            raise ValueError(
                f"CoarseToFine.maps must be what accel.resolution.measure found for factor {self.factor}, or (), not "
                f"{len(self.maps)} numbers."
            )

    @classmethod
    def for_tuning(cls) -> Sequence[CoarseToFine]:
        return (cls(),)

    def build(self, anatomy: Anatomy) -> Lever:
        if anatomy.prediction == "unknown":
            return InactiveLever(self, UNKNOWN_PREDICTION)
        return CoarseLever(self, anatomy)
