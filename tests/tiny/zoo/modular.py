"""Modular pipelines: their default blocks, but for those that encode words. Prompts are embeddings."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from diffusers import HeliosDMDScheduler, HeliosScheduler, ModularPipeline

from tests.tiny.case import Ask, quiet
from tests.tiny.image import image_vae
from tests.tiny.zoo.case import Case, drawn_by_one
from tests.tiny.zoo.clips import FACTORED
from tests.tiny.zoo.parts import make
from tests.tiny.zoo.pictures import listed, wholly_layered
from tests.tiny.zoo.sdxl import UNET
from tests.tiny.zoo.stand_ins import image_encoder, image_processor

LEFT_OUT = (
    "decode",
    "after_decode",
    "prompt_enhancer",
    "prompt_upsampler",
    "prompt_upsample",
    "text_encoder",
    "duration",
)
SIXTEEN: dict[str, Any] = {"vae": image_vae}


@dataclass(frozen=True)
class ModularCase(Case):
    """A modular pipeline. parts: settings of its components. pictures: whether it needs one."""

    pictures: bool = False

    @cached_property
    def _taken(self) -> Mapping[str, inspect.Parameter]:
        kind = inspect.Parameter.KEYWORD_ONLY
        inputs = {given.name: given for given in self._blocks().inputs if given.name}
        found = {name: inspect.Parameter(name, kind, default=given.default) for name, given in inputs.items()}
        pictures = (
            *("mask", "mask_image", "control_image", "video"),
            *(() if self.pictures else ("image", "strength")),
        )
        return {name: parameter for name, parameter in found.items() if name not in pictures}

    @property
    def _worded(self) -> bool:
        return False

    def _blocks(self) -> Any:
        blocks = self.kind().blocks
        for name in LEFT_OUT:
            blocks.sub_blocks.pop(name, None)
        return blocks

    def build(self) -> ModularPipeline:
        pipe = self._blocks().init_pipeline()
        specs = {
            name: spec for name, spec in pipe._component_specs.items() if spec.default_creation_method != "from_config"
        }
        made = {name: self._component(name, spec.type_hint) for name, spec in specs.items()}
        pipe.update_components(**{name: part for name, part in made.items() if part is not None})
        return quiet(pipe)

    def _component(self, name: str, kind: Any) -> Any:
        given = self.parts.get(name, {})
        if given is None or "tokenizer" in name or name in ("processor", "text_encoder", "text_encoder_2"):
            return None
        if callable(given):
            return given()
        if name == "image_encoder":
            return image_encoder(**given)
        return image_processor() if name == "feature_extractor" else make(kind, given)

    def answer(self, ask: Ask) -> dict[str, Any]:
        return {"output": "latents"} | super().answer(ask)


CASES: tuple[Case, ...] = (
    ModularCase("FluxModularPipeline", SIXTEEN),
    ModularCase(
        "FluxKontextModularPipeline",
        SIXTEEN,
        {"max_area": 64 * 64, "_auto_resize": False},
        pictures=True,
        rows=True,
    ),
    ModularCase("Flux2ModularPipeline"),
    ModularCase("Flux2KleinModularPipeline"),
    ModularCase("Flux2KleinBaseModularPipeline"),
    ModularCase("WanModularPipeline"),
    ModularCase("Wan22ModularPipeline"),
    ModularCase(
        "WanImage2VideoModularPipeline",
        {"transformer": {"in_channels": 36, "image_dim": 16}, "image_processor": image_processor},
        pictures=True,
        alone="one picture a call",
    ),
    ModularCase(
        "Wan22Image2VideoModularPipeline",
        {"transformer": {"in_channels": 36}, "transformer_2": {"in_channels": 36}},
        drawn_by_one,
        pictures=True,
    ),
    ModularCase("QwenImageModularPipeline", {"controlnet": None}),
    ModularCase("QwenImageEditModularPipeline", pictures=True),
    ModularCase("QwenImageEditPlusModularPipeline", pictures=True),
    ModularCase("StableDiffusion3ModularPipeline", SIXTEEN),
    ModularCase("StableDiffusionXLModularPipeline", {"unet": UNET, "controlnet": None, "image_encoder": None}),
    ModularCase("ZImageModularPipeline", SIXTEEN, listed),
    ModularCase("ErnieImageModularPipeline"),
    ModularCase("Krea2ModularPipeline", {}, wholly_layered),
    ModularCase("Krea2TurboModularPipeline", {}, wholly_layered),
    ModularCase("LTXModularPipeline"),
    ModularCase("HunyuanVideo15ModularPipeline"),
    ModularCase("HeliosModularPipeline", {"scheduler": lambda: HeliosScheduler(stages=1, stage_range=[0, 1])}),
    ModularCase("HeliosPyramidModularPipeline", {"scheduler": partial(HeliosScheduler, gamma=FACTORED)}),
    ModularCase("HeliosPyramidDistilledModularPipeline", {"scheduler": partial(HeliosDMDScheduler, gamma=FACTORED)}),
)
