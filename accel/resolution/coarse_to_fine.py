"""CoarseToFine: while noise is high, the denoiser is evaluated on means over blocks of the latents."""

from __future__ import annotations

from dataclasses import dataclass

from accel.anatomy import Anatomy
from accel.lever import InactiveLever, Lever
from accel.method import Method, setting
from accel.resolution.lever import ResolutionLever


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
    small. frames: a video's latent frames that are averaged; their number must be a multiple of it.
    Cost: a small step costs 1/n of the tokens, and less of attention. No memory.
    A caution: the model sees a smaller picture, so it must be at home at that size too, and means of latents are only
    near what the autoencoder makes of one. The result is another clip than at full size, which settles its layout at
    the size at which these steps are made.
    """

    until: float = setting(0.8, 0.0, 1.0, "noise level at which full size begins; 1 is never small", dial=True)
    factor: int = setting(2, 1, 8, "rows, and columns, that are averaged; 1 with frames 1 is never small")
    frames: int = setting(1, 1, 8, "latent frames that are averaged")

    data_free = True

    def build(self, anatomy: Anatomy) -> Lever:
        if anatomy.prediction == "unknown":
            return InactiveLever(self, "what the denoiser predicts is not known, so its output at another size is not")
        return ResolutionLever(self, anatomy)
