"""ShiftedWindows: canvases and clips larger than the model was trained for, in windows that move from step to step."""

from __future__ import annotations

import random
from dataclasses import dataclass

from accel.anatomy import Anatomy
from accel.lever import Lever
from accel.method import Method, setting
from accel.resolution.windows_lever import WindowsLever


@dataclass(frozen=True)
class ShiftedWindows(Method, lever="resolution"):
    """Cuts the latents into windows of the size that the model is at home at, evaluates them as one batch, and puts one
    prediction for the whole canvas together from them.

    Source: SpotDiffusion (arXiv 2407.15507): windows do not overlap, and their places are drawn anew in each step, so
    that no seam is where the last one was; other methods blend overlapping windows and compute everything several
    times. Unlike there the rows and columns of windows stay while noise is high: it is then that a model decides what
    its picture shows, and a window that moves meanwhile finds halves of what two others have begun. And the canvas does
    not wrap around unless it is `circular`: windows at its ends are shifted inwards, and each pixel is taken from the
    window that the cut gives it to.

    window: rows and columns of a window, in latents (pixels over the autoencoder's factor; multiples of the model's
    patch, and of what a U-Net halves); 0 cuts neither. frames: latent frames of a window; 0 does not cut time. An axis
    that is no longer than its window stays whole. still: the noise level (1 is pure noise) down to which windows stay
    side by side from the first row and column on; 1 moves them in every step, as published. Of the parts of the pocket
    image model's 64x256 canvases 77 % show the prompt with 1, and 90 % with 0.8; with 0.6 and less one sees where
    windows met (docs/levers.md). In time they always move: parts of a clip that begin by themselves are cuts between
    shots. circular: 1 joins the left and right ends, for panoramas around. seed: of the places. All streams of a step
    have the same ones.
    whole: the noise level down to which a clip longer than a window is seen as one window in time, of the clip's lowest
    frequencies at the lower noise level that these have (as in `CoarseToFine`), so that one motion takes the whole
    clip and each window sees a part of it; 1, as published, cuts it always, and a motion is over before the clip is.
    Not with a picture that a frame is told to show, nor where the call does not say how noise levels are told: such
    steps are cut all the same, and the report says why.
    Cost: a canvas of n windows is up to n + 1 of them per axis that is cut, and each costs what a picture of that size
    does: time grows with the area. Memory: that of a batch of so many pictures. Steps of a whole clip cost one window.
    Every window shows what the prompt says. Not for one object that fills the canvas; for one story over time only with
    `whole`, and then motion is slower by as much as the clip is longer than its window. The first latent frame of many
    video autoencoders is a single picture, which windows from the middle of a clip begin without. Text is the same for
    all windows, and so are sizes that a model is told (SDXL).
    """

    window: int = setting(64, 0, None, "rows and columns of a window, in latents; 0: not cut")
    frames: int = setting(0, 0, None, "latent frames of a window; 0: time is not cut")
    circular: int = setting(0, 0, 1, "1 joins the left and right ends")
    seed: int = setting(0, 0, None, "of the places of the windows")
    still: float = setting(0.8, 0.0, 1.0, "noise level down to which rows and columns of windows stay; 1 moves always")
    whole: float = setting(1.0, 0.0, 1.0, "noise level down to which a long clip is one window; 1 cuts it always")

    data_free = True

    def build(self, anatomy: Anatomy) -> Lever:
        return WindowsLever(self, anatomy)

    def offset(self, step: int, time: float, axis: int, window: int) -> int:
        """How far the cuts of an axis (0 is time) are moved in this step, at this noise level: 0 to window - 1."""
        stays = axis > 0 and time > self.still
        return 0 if stays else random.Random(f"{self.seed} {step} {axis}").randrange(window)
