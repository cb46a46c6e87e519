"""A tiny pipeline of every denoising pipeline class of the installed diffusers, as far as one can be built offline.

`ZOO[name]` is one that other tests can use like those of `tests.tiny.TINY`; `NOT_BUILT[name]` says why there is none.
Both together are `denoising_classes()`.
"""

from tests.tiny import TINY, TinyPipeline
from tests.tiny.zoo import cascades, clips, flux, modular, others, pictures, sdxl, stable_diffusion
from tests.tiny.zoo.not_built import NOT_BUILT

FAMILIES = (stable_diffusion, sdxl, flux, pictures, clips, cascades, others, modular)
ZOO: dict[str, TinyPipeline] = {case.pipeline: case.tiny for family in FAMILIES for case in family.CASES}
ZOO |= {"StableVideoDiffusionPipeline": TINY["svd"]}
ALONE = {case.pipeline: case.alone for family in FAMILIES for case in family.CASES if case.alone}
"""Those that make no batches, and why."""

__all__ = ["ALONE", "NOT_BUILT", "ZOO"]
