"""Tiny random-weight pipelines of real diffusers classes, built offline, for exactness tests.

`TINY[name].build()` gives a fresh pipeline with deterministic weights; `run(pipe, TINY[name], ...)` calls it
and returns its latents as one float tensor. They are meant for questions that need no trained weights: is the
output bit-identical, how often was the denoiser called, did state leak from one run to the next. They say
nothing about quality, and little about speed.
"""

from tests.tiny.case import TinyPipeline, run
from tests.tiny.image import IMAGE
from tests.tiny.image_conditioned import IMAGE_CONDITIONED
from tests.tiny.inputs import picture
from tests.tiny.unet import UNET
from tests.tiny.video import VIDEO

TINY: dict[str, TinyPipeline] = {tiny.name: tiny for tiny in (*VIDEO, *IMAGE, *IMAGE_CONDITIONED, *UNET)}

__all__ = ["TINY", "TinyPipeline", "picture", "run"]
